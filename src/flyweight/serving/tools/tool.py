"""The functions that a request offers, and which of them the answer may, must or may not call."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flyweight.errors import UsageError, nearest

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MOST_TOOLS = 128
FUNCTION_FIELDS = ("name", "description", "parameters", "strict")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A function.

    Attributes:
        parameters: JSON schema of its arguments, an object.
        strict: whether its arguments must satisfy the schema; None where the request does not say.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any]
    strict: bool | None = None

    def to_template(self) -> dict[str, Any]:
        """The function as chat templates read it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolChoice:
    """``auto``: text or calls; ``required``: a call or more; ``named``: one call of ``name``; ``none``: text only."""

    kind: Literal["auto", "none", "required", "named"]
    name: str | None = None

    @property
    def is_forced(self) -> bool:
        return self.kind in ("required", "named")


def read_tools(given: Any) -> tuple[Tool, ...]:
    """The functions in ``tools`` of the OpenAI API.

    Raises:
        UsageError: naming the place at fault.
    """
    if given is None:
        return ()
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) > MOST_TOOLS:
        raise UsageError(f"tools must be a list of at most {MOST_TOOLS} functions")
    tools = tuple(_tool(one, f"tools[{place}]") for place, one in enumerate(given))
    names = [tool.name for tool in tools]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UsageError(f"tools[{place}] has the name {name!r} of an earlier one; give each its own")
    return tools


def read_choice(given: Any, tools: Sequence[Tool]) -> ToolChoice:
    """What ``tool_choice`` of the OpenAI API asks for; without it ``auto`` where there are tools.

    Raises:
        UsageError: when it is of another kind, or names a function that is not offered.
    """
    if given is None:
        return ToolChoice(kind="auto" if tools else "none")
    if isinstance(given, str):
        if given not in ("auto", "none", "required"):
            raise UsageError(f"tool_choice={given[:64]!r} is unknown; choose auto, none, required or a function")
        if given == "required" and not tools:
            raise UsageError("tool_choice='required' needs tools; give at least one")
        return ToolChoice(kind=given)  # type: ignore[arg-type]
    function = given.get("function") if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(given, Mapping) or given.get("type") != "function" or not isinstance(name, str):
        raise UsageError('tool_choice must be auto, none, required or {"type": "function", "function": {"name": ...}}')
    known = [tool.name for tool in tools]
    if name not in known:
        raise UsageError(f"tool_choice names the function {name[:64]!r}, which is not in tools{nearest(name, known)}")
    return ToolChoice(kind="named", name=name)


def _tool(given: Any, place: str) -> Tool:
    function = given.get("function") if isinstance(given, Mapping) else None
    if not isinstance(given, Mapping) or given.get("type") != "function" or not isinstance(function, Mapping):
        raise UsageError(f'{place} must be {{"type": "function", "function": {{...}}}}')
    for name in function:
        if name not in FUNCTION_FIELDS:
            raise UsageError(f"{place}.function has an unknown field {name!r}{nearest(name, FUNCTION_FIELDS)}")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(f"{place}.function.name must be 1 to 64 letters, digits, dots, dashes and underscores")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise UsageError(f"{place}.function.parameters must be a JSON schema, an object")
    description, strict = function.get("description"), function.get("strict")
    if not isinstance(description, str | None) or not isinstance(strict, bool | None):
        raise UsageError(f"{place}.function: description must be a text and strict a boolean")
    return Tool(
        name=name,
        description=description or "",
        parameters=parameters or {"type": "object", "properties": {}},
        strict=strict,
    )
