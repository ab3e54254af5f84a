"""DeepSeek R1: each call a name and a block of JSON between marks of its own."""

from flyweight.serving.tools.shape import CallShape
from flyweight.serving.tools.tool_format import ToolFormat

MARKS = (
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
)

DEEPSEEK_R1 = ToolFormat(
    name="deepseek-r1",
    recognises=lambda template: MARKS[0] in template,
    shape=CallShape(
        opening=MARKS[0],
        style="tagged",
        head=(f"{MARKS[1]}function{MARKS[2]}",),
        name_end="\n",
        middle="```json\n",
        tail=f"\n```{MARKS[3]}",
        separator="\n",
        last=MARKS[4],
    ),
    marks=MARKS,
)
