"""Mistral: a list of objects behind ``[TOOL_CALLS]``; ids of calls have nine characters."""

from flyweight.serving.tools.shape import CallShape
from flyweight.serving.tools.tool_format import ToolFormat, short_id

MISTRAL = ToolFormat(
    name="mistral",
    recognises=lambda template: "[TOOL_CALLS]" in template and "[ARGS]" not in template,
    shape=CallShape(opening="[TOOL_CALLS]", first="[", separator=", ", last="]"),
    new_id=short_id,
    marks=("[TOOL_CALLS]",),
)
