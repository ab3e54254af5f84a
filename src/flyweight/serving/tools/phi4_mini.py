"""Phi-4-mini: a list of objects between ``<|tool_call|>`` and ``<|/tool_call|>``, an end that it often leaves out.

Its template knows functions only as a text beside the system message (``message['tools']``), and neither calls nor
results; they are written as its model card and the Berkeley function-calling leaderboard have them. A template that
tells the model of ``functools[...]`` instead, as vLLM's for it, is of the family ``firefunction``, which reads that.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flyweight.serving.tools.shape import CallShape
from flyweight.serving.tools.tool import Tool
from flyweight.serving.tools.tool_format import Messages, Templated, ToolFormat

OPENING, END = "<|tool_call|>", "<|/tool_call|>"
SYSTEM = "You are a helpful assistant with some tools."


def prompt(messages: Messages, tools: Sequence[Tool]) -> tuple[list[Mapping[str, Any]], Templated | None]:
    """Put the functions beside the system message, and write earlier calls and their results as text."""
    rendered = [_as_text(message) for message in messages]
    if not tools:
        return rendered, None
    listed = json.dumps([tool.to_template()["function"] for tool in tools], ensure_ascii=False)
    if rendered and rendered[0].get("role") == "system":
        return [{**rendered[0], "tools": listed}, *rendered[1:]], None
    return [{"role": "system", "content": SYSTEM, "tools": listed}, *rendered], None


def _as_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if message.get("role") == "tool":
        return {"role": "tool_response", "content": message.get("content") or ""}
    calls = message.get("tool_calls")
    if not calls:
        return message
    functions = [{"name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in calls]
    written = OPENING + json.dumps(functions, ensure_ascii=False) + END
    return {"role": "assistant", "content": (message.get("content") or "") + written}


PHI4_MINI = ToolFormat(
    name="phi4-mini",
    recognises=lambda template: "<|tool|>" in template and "<|/tool|>" in template,
    shape=CallShape(opening=OPENING, first="[", separator=", ", last="]" + END),
    prompt=prompt,
    marks=(OPENING, END),
)
