"""Command R+: a block of JSON behind ``Action:``. Command R7B: a list behind ``<|START_ACTION|>``."""

from flyweight.serving.tools.shape import CallShape
from flyweight.serving.tools.tool_format import ToolFormat

COMMAND_R = ToolFormat(
    name="command-r",
    recognises=lambda template: "Action:" in template and "tool_name" in template and "START_ACTION" not in template,
    shape=CallShape(
        opening="Action:",
        first="\n```json\n[\n",
        separator=",\n",
        last="\n]```",
        name_key="tool_name",
        argument_keys=("parameters",),
        head=('    {"tool_name": "',),
    ),
)

COMMAND_R7B = ToolFormat(
    name="command-r7b",
    recognises=lambda template: "<|START_ACTION|>" in template,
    shape=CallShape(
        opening="<|START_ACTION|>",
        first="[\n",
        separator=",\n",
        last="\n]<|END_ACTION|>",
        name_key="tool_name",
        argument_keys=("parameters",),
        head=('    {"tool_call_id": "', "/[0-9]{1,2}/", '", "tool_name": "'),
    ),
    marks=("<|START_ACTION|>", "<|END_ACTION|>"),
)
