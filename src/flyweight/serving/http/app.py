"""The application: routes made of operations, errors in one form, and the gate before it all."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flyweight.serving.api_errors import ApiError, internal_error
from flyweight.serving.http.answers import error_answer, json_answer
from flyweight.serving.http.hosts import host_rule
from flyweight.serving.http.middleware import OPEN_PATHS, Gate
from flyweight.serving.http.openapi import openapi_document
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.routes import chat, completions, embeddings, health, messages, models, responses, tokens
from flyweight.serving.http.state import ServerState, request_id_of
from flyweight.serving.keys import read_keys

log = logging.getLogger("flyweight")


def operations() -> list[Operation]:
    """Everything that the server answers."""
    return [
        *health.OPERATIONS,
        *models.OPERATIONS,
        *chat.OPERATIONS,
        *completions.OPERATIONS,
        *responses.OPERATIONS,
        *messages.OPERATIONS,
        *embeddings.OPERATIONS,
        *tokens.OPERATIONS,
    ]


def make_app(state: ServerState, extra: Sequence[Operation] = ()) -> ASGIApp:
    """The whole application.

    Args:
        extra: further operations, such as those of metrics.
    """
    listed = [*operations(), *extra]
    app = Starlette(
        routes=_routes(listed),
        exception_handlers={HTTPException: _told_http},
    )
    app.router.redirect_slashes = False
    app.state.server = state
    keys = read_keys(state.options)
    return Gate(
        app,
        keys=keys,
        is_allowed_host=host_rule(state.options.allowed_host, has_keys=keys is not None),
        limits=state.limits,
    )


def _routes(listed: Sequence[Operation]) -> list[Route]:
    """The routes. Those of one path stand together, so that a wrong method is told from a wrong path."""
    document = openapi_document(listed, open_paths=frozenset(path.decode() for path in OPEN_PATHS))

    async def openapi(_request: Request) -> Response:
        """The document of the API."""
        return json_answer(document)

    by_path: dict[str, list[Operation]] = {}
    for one in [*listed, Operation(method="GET", path="/openapi.json", handler=openapi, summary="This document")]:
        by_path.setdefault(one.path, []).append(one)
    return [Route(path, _endpoint(found), methods=[one.method for one in found]) for path, found in by_path.items()]


def _endpoint(operations_of_path: Sequence[Operation]) -> Callable[[Request], Awaitable[Response]]:
    of_method: dict[str, Operation] = {one.method: one for one in operations_of_path}

    async def answer(request: Request) -> Response:
        operation = of_method["GET" if request.method == "HEAD" else request.method]
        try:
            return _Sent(await operation.handler(request))
        except ApiError as error:
            return error_answer(error)
        except ClientDisconnect:
            raise
        except Exception:
            request_id = request_id_of(request)
            log.exception("%s: %s %s failed", request_id, operation.method, operation.path)
            return error_answer(internal_error(request_id))

    return answer


class _Sent(Response):
    """Lets a route give any ASGI application as its answer."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._inner(scope, receive, send)


async def _told_http(_request: Request, error: Exception) -> Response:
    """What the router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    messages = {404: "there is no such path", 405: "this path does not take that method"}
    return error_answer(
        ApiError(
            error.status_code, messages.get(error.status_code, str(error.detail)), headers=dict(error.headers or {})
        )
    )
