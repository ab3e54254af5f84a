"""What stands before every route: the name of the request, the guard, and the bounds of headers and bodies.

All of it looks at the raw request, before any routing: a path that is not exactly one of the open ones needs a key,
however it is written. It knows no models.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Callable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flyweight.serving.api_errors import ApiError, internal_error
from flyweight.serving.asks import Owner
from flyweight.serving.http.answers import error_answer
from flyweight.serving.http.routes.page import PAGE_PATHS
from flyweight.serving.keys import KeyRing
from flyweight.serving.limits import ServerLimits

OPEN_PATHS = frozenset({b"/health", b"/ready"}) | PAGE_PATHS
GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger("flyweight")


class Gate:
    """The outermost application.

    Args:
        app: what is behind it.
        keys: who is let in; None for everybody.
        is_allowed_host: whether clients may call the server by this name.
    """

    def __init__(
        self, app: ASGIApp, *, keys: KeyRing | None, is_allowed_host: Callable[[str], bool], limits: ServerLimits
    ) -> None:
        self._app = app
        self._keys = keys
        self._is_allowed_host = is_allowed_host
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        request_id = _request_id(scope)
        scope["flyweight.request_id"] = request_id
        sender = _Sender(send, request_id)
        try:
            scope["flyweight.owner"] = self._check(scope)
            body = _BoundedBody(receive, self._limits)
            body.check_length(scope)
            await self._app(scope, body, sender)
        except ClientDisconnect:
            log.debug("%s: the client left", request_id)
        except ApiError as error:
            await sender.fail(scope, receive, error)
        except Exception:
            log.exception("%s: failed", request_id)
            await sender.fail(scope, receive, internal_error(request_id))

    def _check(self, scope: Scope) -> Owner:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if len(headers) > self._limits.header_count:
            raise ApiError(431, f"the request has more than {self._limits.header_count} headers")
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) > 1 or not self._is_allowed_host(hosts[0].decode("latin-1") if hosts else ""):
            raise ApiError(400, "the Host header names no host that this server answers to", code="unknown_host")
        if _raw_path(scope) in OPEN_PATHS or self._keys is None:
            return Owner()
        owner = self._keys.find(given_key(headers))
        if owner is None:
            raise ApiError(
                401,
                "this server needs an API key: send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return owner


class _Sender:
    """Sends an answer with the request's name, and an error if none was begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id.encode("ascii")
        self._has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._has_begun = True
            headers = [*message.get("headers", ()), (b"x-request-id", self._request_id)]
            message = {**message, "headers": [*headers, (b"x-content-type-options", b"nosniff")]}
        await self._send(message)

    async def fail(self, scope: Scope, receive: Receive, error: ApiError) -> None:
        if self._has_begun:
            log.error("%s: an answer that had begun was cut off: %s", self._request_id.decode(), error.message)
            raise error  # uvicorn closes the connection: the client sees that the answer is not whole
        if error.status in (413, 408, 431):
            error.headers["Connection"] = "close"  # what is left of the body is not read
        await error_answer(error)(scope, receive, self)


class _BoundedBody:
    """Receives a body up to its bound, in the time that it may take."""

    def __init__(self, receive: Receive, limits: ServerLimits) -> None:
        self._receive = receive
        self._limits = limits
        self._size = 0
        self._is_whole = False
        self._deadline: float | None = None

    def check_length(self, scope: Scope) -> None:
        """Refuse a body that says itself that it is too large, before any of it is read."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > self._limits.body_bytes:
                raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body has more than {self._limits.body_bytes} bytes", code="request_too_large")

    async def __call__(self) -> Message:
        if self._is_whole:
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + self._limits.body_seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {self._limits.body_seconds:g} s") from None
        self._is_whole = not message.get("more_body", False)
        self._size += len(message.get("body", b""))
        if self._size > self._limits.body_bytes:
            raise self._too_large()
        return message


def _request_id(scope: Scope) -> str:
    """The client's own name for the request, where it is a plain word, with something that makes it ours."""
    ours = secrets.token_hex(8)
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return f"{given.decode('ascii')}-{ours}" if GIVEN_ID.fullmatch(given) else f"req-{ours}"


def _raw_path(scope: Scope) -> bytes:
    """The path as it was sent; routing decodes it, the guard does not."""
    raw = scope.get("raw_path")
    path: bytes = raw if isinstance(raw, bytes) else scope["path"].encode("utf-8", "replace")
    return path if scope["path"].encode("utf-8", "replace") == path else b""


def given_key(headers: list[tuple[bytes, bytes]]) -> str:
    """The key of an Authorization header, or of the x-api-key that Anthropic's clients send; two different are none."""
    found = set()
    for name, value in headers:
        if name == b"x-api-key":
            found.add(value)
        elif name == b"authorization":
            scheme, _, key = value.partition(b" ")
            found.add(key.strip() if scheme.lower() == b"bearer" else b"")
    return found.pop().decode("latin-1") if len(found) == 1 else ""
