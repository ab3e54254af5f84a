"""One route: what it takes, what it gives, who answers. The application and its OpenAPI document are made of these."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request
from starlette.types import ASGIApp

Handler = Callable[[Request], Awaitable[ASGIApp]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One method on one path.

    Attributes:
        handler: gets the request, gives what is sent.
        summary: one line for the document.
        body: the JSON schema of the body, with ``$defs``; None for a route without one.
        answer: the JSON schema of the answer, None where it has no body.
        answer_type: the content type of the answer; a stream of events is named beside it where ``streams``.
        parameters: names in the path, such as ``id`` in ``/v1/responses/{id}``.
        statuses: error statuses, beside those that every guarded route has.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Handler
    summary: str
    body: dict[str, Any] | None = None
    answer: dict[str, Any] | None = None
    answer_type: str = "application/json"
    streams: bool = False
    parameters: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
