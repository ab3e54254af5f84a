"""Hermes, Qwen 2.5 and Qwen 3: each call an object between ``<tool_call>`` and ``</tool_call>``."""

from flyweight.serving.tools.shape import CallShape
from flyweight.serving.tools.tool_format import ToolFormat

HERMES = ToolFormat(
    name="hermes",
    recognises=lambda template: "<tool_call>" in template and "<function=" not in template,
    shape=CallShape(
        opening="<tool_call>",
        first="\n",
        last="\n</tool_call>",
        argument_keys=("arguments", "parameters"),
        between="\n",
    ),
    marks=("<tool_call>", "</tool_call>"),
)
