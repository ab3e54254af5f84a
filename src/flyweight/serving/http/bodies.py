"""Reads a JSON body into the type that a route wants, within bounds, and off the event loop where it is large."""

from functools import partial
from typing import Any, TypeVar

import orjson
from starlette.requests import Request

from flyweight.serving.api_errors import ApiError
from flyweight.serving.http.state import state_of
from flyweight.serving.protocol.body import Body, parse_body

B = TypeVar("B", bound=Body)

SMALL_BODY = 32_768
# Each unknown field and each item of another type becomes a fault of its own, and thousands of them take seconds.
MOST_FIELDS = 4096
MOST_ITEMS = 16_384
CONTAINERS = (dict, list)
KINDS = frozenset(CONTAINERS)  # JSON makes no subclasses of them


async def read_body(request: Request, kind: type[B]) -> tuple[B, list[str]]:
    """The body of a request as ``kind``, and warnings about unknown fields where the server is lenient.

    Raises:
        ApiError: 415 for another content type than JSON, 400 for what is not JSON or not a ``kind``.
    """
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != "application/json":
        # Other types could be sent by any web page without asking the server first.
        raise ApiError(415, f"content-type {content_type!r} is not possible; send application/json")
    raw = await request.body()
    state = state_of(request)
    read = partial(_read, raw, kind, lenient=state.options.lenient, nesting=state.limits.body_nesting)
    return read() if len(raw) <= SMALL_BODY else await state.compute(read)


def _read(raw: bytes, kind: type[B], *, lenient: bool, nesting: int) -> tuple[B, list[str]]:
    try:
        given = orjson.loads(raw)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if _is_deeper(given, nesting):
        raise ApiError(400, f"the body is nested deeper than {nesting} levels", code="invalid_json")
    if (fault := _too_large(given)) is not None:
        raise ApiError(400, fault, code="invalid_json")
    return parse_body(kind, given, lenient=lenient)


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether objects and lists lie in one another more than so many levels deep, the body itself being the first."""
    level = [value] if isinstance(value, CONTAINERS) else []
    for _ in range(levels):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return False
    return True


def _containers(outer: dict[str, Any] | list[Any]) -> list[dict[str, Any] | list[Any]]:
    """The objects and lists that lie directly in an object or a list."""
    items = outer.values() if isinstance(outer, dict) else outer
    # A million numbers are passed over without a look at each, which would take a third of a second.
    if KINDS.isdisjoint(map(type, items)):
        return []
    return [one for one in items if isinstance(one, CONTAINERS)]


def _too_large(value: Any) -> str | None:
    """What is wrong with an object or a list in it that is too large; only lists of numbers, such as token ids, may be
    long."""
    if isinstance(value, dict):
        if len(value) > MOST_FIELDS:
            return f"an object in the body has {len(value)} fields; {MOST_FIELDS} are allowed"
    elif isinstance(value, list):
        if len(value) > MOST_ITEMS and not {*map(type, value)} <= {int}:
            return f"a list in the body has {len(value)} items; {MOST_ITEMS} are allowed, more of numbers only"
    else:
        return None
    faults = (_too_large(one) for one in _containers(value))
    return next((fault for fault in faults if fault is not None), None)
