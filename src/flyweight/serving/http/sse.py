"""Server-sent events: an ASGI answer that sends what an iterator makes, notices when the client leaves, and gives up
one that does not read.

Between events it sends comments, so that proxies do not take silence for an end. In every case the iterator is closed
and the route is told, which gives its answers back then.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.types import Receive, Scope, Send

from flyweight.serving.http.answers import dump

COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def event(value: object, name: str | None = None) -> bytes:
    """One event with a JSON value."""
    head = b"" if name is None else b"event: " + name.encode("ascii") + b"\n"
    return head + b"data: " + dump(value) + b"\n\n"


class EventStream:
    """Sends events as they come.

    Args:
        events: what is sent, made by ``event``. Its first piece is awaited before anything is sent.
        comment_seconds: silence after which a comment is sent.
        reader_seconds: time that the client may leave a piece unread.
        give_up: is called at the end, also where the connection breaks before the first event was asked for, and so
            nothing in ``events`` would run.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        comment_seconds: float,
        reader_seconds: float,
        give_up: Callable[[], None],
    ) -> None:
        self._events = events
        self._comment_seconds = comment_seconds
        self._reader_seconds = reader_seconds
        self._give_up = give_up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(_left(receive))
        try:
            async with aclosing(self._events):
                await self._send(send, leaving)
        finally:
            self._give_up()
            leaving.cancel()

    async def _send(self, send: Send, leaving: "asyncio.Future[None]") -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        coming: asyncio.Future[bytes] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(self._events))
                await asyncio.wait(
                    (coming, leaving), timeout=self._comment_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if leaving.done():
                    return
                if coming.done():
                    try:
                        piece = coming.result()
                    except StopAsyncIteration:
                        break
                    coming = None
                else:
                    piece = COMMENT
                try:
                    async with asyncio.timeout(self._reader_seconds):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                except (TimeoutError, OSError):
                    return
        finally:
            if coming is not None and not coming.done():
                coming.cancel()
                await asyncio.wait((coming,))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    """Returns when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
