"""The application: routes made of operations, errors in one form, and the gate before it all."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from flyweight.serving.api_errors import ApiError, internal_error
from flyweight.serving.http.answers import error_answer
from flyweight.serving.http.hosts import host_rule
from flyweight.serving.http.middleware import Gate
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.routes import chat, health, models
from flyweight.serving.http.state import ServerState, request_id_of
from flyweight.serving.keys import read_keys

log = logging.getLogger("flyweight")


def operations() -> list[Operation]:
    """Everything that the server answers."""
    return [*health.OPERATIONS, *models.OPERATIONS, *chat.OPERATIONS]


def make_app(state: ServerState, extra: Sequence[Operation] = ()) -> ASGIApp:
    """The whole application.

    Args:
        extra: further operations, such as those of metrics.
    """
    listed = [*operations(), *extra]
    app = Starlette(
        routes=[Route(one.path, _endpoint(one), methods=[one.method]) for one in listed],
        exception_handlers={HTTPException: _told_http},
    )
    app.router.redirect_slashes = False
    app.state.server = state
    app.state.operations = listed
    keys = read_keys(state.options)
    return Gate(
        app,
        keys=keys,
        is_allowed_host=host_rule(state.options.allowed_host, has_keys=keys is not None),
        limits=state.limits,
    )


def _endpoint(operation: Operation) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
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


__all__ = ["Router", "make_app", "operations"]
