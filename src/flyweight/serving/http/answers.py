"""What is sent: JSON bodies and errors."""

from typing import Any

import orjson
from starlette.responses import Response

from flyweight.serving.api_errors import ApiError


def dump(value: Any) -> bytes:
    """JSON as bytes. Half a surrogate pair, which UTF-8 cannot hold, becomes a replacement character."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(_valid(value))


def json_answer(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON body."""
    return Response(dump(value), status_code=status, headers=headers, media_type="application/json")


def error_answer(error: ApiError) -> Response:
    """The error object with its status."""
    return json_answer(error.body(), status=error.status, headers=error.headers)


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_valid(name): _valid(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(inner) for inner in value]
    return value
