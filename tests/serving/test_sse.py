import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any

import pytest

from flyweight.serving.http.sse import EventStream, event

Message = MutableMapping[str, Any]


async def some_events() -> AsyncGenerator[bytes, None]:
    yield event({"n": 1})
    yield event({"n": 2})


async def never() -> Message:
    await asyncio.sleep(60)
    raise AssertionError("nobody waits so long")


def test_what_was_asked_is_given_up_at_the_end_of_a_stream() -> None:
    sent: list[Message] = []
    ends: list[int] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        stream = EventStream(some_events(), comment_seconds=9, reader_seconds=9, give_up=lambda: ends.append(len(sent)))
        await stream({"type": "http"}, never, send)

    asyncio.run(run())
    assert [message.get("body") for message in sent] == [None, b'data: {"n":1}\n\n', b'data: {"n":2}\n\n', b""]
    assert ends == [4]


def test_what_was_asked_is_given_up_where_the_connection_breaks_before_the_first_event() -> None:
    # The generator of the events is never begun then, so nothing in it can give anything up.
    begun: list[bytes] = []
    ends: list[str] = []

    async def events() -> AsyncGenerator[bytes, None]:
        begun.append(b"")
        yield b""

    async def send(_message: Message) -> None:
        raise OSError("broken pipe")

    async def run() -> None:
        stream = EventStream(events(), comment_seconds=9, reader_seconds=9, give_up=lambda: ends.append("ended"))
        with pytest.raises(OSError, match="broken pipe"):
            await stream({"type": "http"}, never, send)

    asyncio.run(run())
    assert begun == []
    assert ends == ["ended"]
