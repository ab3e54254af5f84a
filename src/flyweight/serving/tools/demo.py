"""The demo model: functions in one line each in the system message; a call is an object with name and arguments.

Its template knows no tools, so that they are written into the messages here, as in its training.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flyweight.serving.tools.shape import CallShape
from flyweight.serving.tools.tool import Tool
from flyweight.serving.tools.tool_format import Messages, Templated, ToolFormat

# The whole of its template up to the roles' names: no other model's begins so.
TEMPLATE_MARK = "not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role ' + message['role']) }}"


def signature(tool: Tool) -> str:
    """``name(parameter:type, ...)``."""
    properties = tool.parameters.get("properties")
    described = properties if isinstance(properties, Mapping) else {}
    parameters = [
        f"{name}:{schema.get('type', 'string') if isinstance(schema, Mapping) else 'string'}"
        for name, schema in described.items()
    ]
    return f"{tool.name}({', '.join(parameters)})"


def prompt(messages: Messages, tools: Sequence[Tool]) -> tuple[list[Mapping[str, Any]], Templated | None]:
    """Write the functions into a system message, and earlier calls and their results as text."""
    rendered = [_as_text(message) for message in messages]
    if not tools:
        return rendered, None
    listed = "Tools:\n" + "\n".join(signature(tool) for tool in tools)
    if rendered and rendered[0].get("role") == "system":
        first = {**rendered[0], "content": f"{rendered[0]['content']}\n{listed}"}
        return [first, *rendered[1:]], None
    return [{"role": "system", "content": listed}, *rendered], None


def _as_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if message.get("role") == "tool":
        return {"role": "user", "content": message.get("content", "")}
    calls = message.get("tool_calls")
    if not calls:
        return message
    texts = [_call_text(call) for call in calls]
    return {"role": "assistant", "content": "\n".join([message.get("content") or "", *texts]).strip()}


def _call_text(call: Mapping[str, Any]) -> str:
    function = call["function"]
    return json.dumps(
        {"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False, separators=(",", ":")
    )


DEMO = ToolFormat(
    name="demo",
    recognises=lambda template: TEMPLATE_MARK in template,
    shape=CallShape(opening="", at_start=True, head=('{"name":"',), middle='","arguments":', tail="}"),
    prompt=prompt,
)
