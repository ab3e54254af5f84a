"""Functionary: ``<function=name>{...}</function>`` (3.1), or ``>>>name`` and a line with arguments (3.2)."""

from flyweight.serving.tools.shape import CallShape
from flyweight.serving.tools.tool_format import ToolFormat

FUNCTIONARY_31 = ToolFormat(
    name="functionary-3.1",
    recognises=lambda template: "<function=" in template and "<tool_call>" not in template,
    shape=CallShape(opening="<function=", style="tagged", head=(), name_end=">", tail="</function>", between=""),
)

FUNCTIONARY_32 = ToolFormat(
    name="functionary-3.2",
    recognises=lambda template: ">>>all" in template,
    shape=CallShape(
        opening=">>>", is_opened_by_prompt=True, style="tagged", head=(), name_end="\n", text_name="all", between=""
    ),
)
