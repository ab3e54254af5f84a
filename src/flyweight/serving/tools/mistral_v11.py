"""Mistral from version 11 of its tokenizers on: ``[TOOL_CALLS]name[ARGS]{...}``, a mark before each call.

Version 11 writes the call's own id between name and arguments, ``[CALL_ID]...``, version 13 does not (mistral-common,
``InstructTokenizerV11`` and ``V13``). Both are read, and that id is read over: a call gets one of ours, of the same
form. What is forced is the later form.
"""

from flyweight.serving.tools.shape import CallShape
from flyweight.serving.tools.tool_format import ToolFormat, short_id

MISTRAL_V11 = ToolFormat(
    name="mistral-v11",
    recognises=lambda template: "[TOOL_CALLS]" in template and "[ARGS]" in template,
    shape=CallShape(
        opening="[TOOL_CALLS]",
        style="tagged",
        head=(),
        name_end="[",
        aside="CALL_ID]",
        middle="ARGS]",
        between="",
    ),
    new_id=short_id,
    marks=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
)
