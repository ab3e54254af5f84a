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
MOST_FIELDS = 4096  # of one object: each field that is unknown would become a fault of its own


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
    if _has_large_object(given):
        raise ApiError(400, f"an object in the body has more than {MOST_FIELDS} fields", code="invalid_json")
    return parse_body(kind, given, lenient=lenient)


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether objects and lists lie in one another more than so many levels deep."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _has_large_object(value: Any) -> bool:
    """Whether an object anywhere in it has too many fields."""
    if isinstance(value, dict):
        return len(value) > MOST_FIELDS or any(map(_has_large_object, value.values()))
    return isinstance(value, list) and any(isinstance(one, dict | list) and _has_large_object(one) for one in value)
