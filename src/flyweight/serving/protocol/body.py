"""The base of every body: what is not known is refused by name, numbers are numbers, and errors name their field."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from flyweight.errors import nearest
from flyweight.serving.api_errors import ApiError

B = TypeVar("B", bound="Body")

MOST_NAMED = 3
MOST_FAULTS = 20  # looked at for the message
MOST_UNKNOWN = 100  # left out in lenient mode; each costs a copy of the body


def _not_a_number(value: Any) -> Any:
    if type(value) in (int, float):
        raise ValueError("input should be false")
    return value


OnlyFalse = Annotated[Literal[False], BeforeValidator(_not_a_number)]
"""False and nothing else: Literal[False] takes 0 as well, which is equal to it."""


class Body(BaseModel):
    """Strict: no unknown fields, no texts in place of numbers, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def parse_body(kind: type[B], given: object, *, lenient: bool) -> tuple[B, list[str]]:
    """A body as ``kind``, and warnings about what was left out of it.

    Args:
        given: what JSON made of the body.
        lenient: leave unknown fields out, and say so, instead of refusing them.

    Raises:
        ApiError: 400, naming the field.
    """
    if not isinstance(given, dict):
        raise ApiError(400, f"the body is a JSON {_kind(given)}; it must be an object")
    try:
        return kind.model_validate(given), []
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
    unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    if not lenient or len(unknown) < len(faults) or len(unknown) > MOST_UNKNOWN:
        raise _refusal(kind, given, faults)
    for fault in unknown:
        given = _without(given, fault["loc"])
    body, _ = parse_body(kind, given, lenient=False)
    return body, [f"{path_of(fault['loc'])} is not known and was not used" for fault in unknown]


def _refusal(kind: type[Body], given: Mapping[str, Any], faults: Sequence[Mapping[str, Any]]) -> ApiError:
    """One error for all faults; the first gives its field.

    Unknown names go first. Where a field may be of several types there is a fault for each: those that say more than
    that the type is another one are told.
    """
    unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    of_values = [fault for fault in faults if not fault["type"].endswith("_type")]
    told = [(_param(given, fault), fault) for fault in (unknown or of_values or faults)[:MOST_FAULTS]]
    sentences = dict.fromkeys(_sentence(kind, param, fault) for param, fault in told)
    return ApiError(
        400,
        "; ".join(list(sentences)[:MOST_NAMED]),
        param=told[0][0],
        code="unknown_parameter" if unknown else "invalid_value",
    )


def _sentence(kind: type[Body], param: str, fault: Mapping[str, Any]) -> str:
    if fault["type"] == "extra_forbidden":
        close = nearest(param, kind.model_fields) if "." not in param and "[" not in param else ""
        return f"the parameter {param!r} is not known{close}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{param}: {message[:1].lower()}{message[1:]}"


def _param(given: object, fault: Mapping[str, Any]) -> str:
    """Where a fault lies, in the body's own names; pydantic's path names branches of unions beside them."""
    path: list[str | int] = []
    value: Any = given
    for place, part in enumerate(fault["loc"]):
        if _has(value, part):
            value = value[part]
        elif not (fault["type"] == "missing" and place == len(fault["loc"]) - 1):
            continue
        path.append(part)
    return path_of(path) or "body"


def _has(value: object, part: str | int) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def path_of(parts: Iterable[str | int]) -> str:
    """``messages[0].content`` for ("messages", 0, "content")."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _without(given: Any, path: Sequence[str | int]) -> Any:
    """A copy without what lies at the path."""
    first, *rest = path
    if isinstance(given, Mapping) and first in given:
        if not rest:
            return {name: value for name, value in given.items() if name != first}
        return {**given, first: _without(given[first], rest)}
    if isinstance(given, list) and isinstance(first, int) and first < len(given):
        return [_without(value, rest) if place == first and rest else value for place, value in enumerate(given)]
    return _without(given, rest) if rest else given  # a branch of a union


def _kind(value: object) -> str:
    names: dict[type, str] = {list: "list", str: "text", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
