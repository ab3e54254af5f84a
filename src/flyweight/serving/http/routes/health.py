"""/health and /ready, which need no key: whether the engine lives, and whether new requests are welcome."""

from starlette.requests import Request
from starlette.responses import Response

from flyweight.serving.http.answers import json_answer
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.state import state_of
from flyweight.version import __version__

STATUS = {
    "type": "object",
    "properties": {"status": {"type": "string"}, "reasons": {"type": "object"}},
    "required": ["status"],
}


async def health(request: Request) -> Response:
    """200 while every engine makes progress whenever it has work, else 503 with the reason."""
    reasons = state_of(request).illness()
    if reasons:
        return json_answer({"status": "ill", "reasons": dict(reasons)}, status=503)
    return json_answer({"status": "ok"})


async def ready(request: Request) -> Response:
    """200 while new requests would be taken, else 503 with the reason."""
    reasons = state_of(request).unreadiness()
    if reasons:
        return json_answer({"status": "not ready", "reasons": dict(reasons)}, status=503)
    return json_answer({"status": "ready"})


async def version(_request: Request) -> Response:
    """The version of this package."""
    return json_answer({"version": __version__})


OPERATIONS = [
    Operation(method="GET", path="/health", handler=health, summary="Whether the engine lives", answer=STATUS),
    Operation(method="GET", path="/ready", handler=ready, summary="Whether new requests are welcome", answer=STATUS),
    Operation(
        method="GET",
        path="/version",
        handler=version,
        summary="The version of the server",
        answer={"type": "object", "properties": {"version": {"type": "string"}}, "required": ["version"]},
    ),
]
