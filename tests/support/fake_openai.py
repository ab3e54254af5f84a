"""A small OpenAI-compatible server with scripted answers: delays, tokens per event, errors, broken connections.

It runs in a thread of its own and notes when it really wrote each event, so that a test can compare what a client
measured with what happened, on however slow a machine.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self


@dataclass(frozen=True, kw_only=True)
class Event:
    """After ``delay`` seconds, ``tokens`` tokens with this text."""

    delay: float = 0.0
    text: str = "word "
    tokens: int = 1


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One scripted answer. ``cut_after`` events the connection breaks, ``error_after`` events an error comes."""

    events: Sequence[Event] = (Event(),)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    usage: Literal["final", "continuous", "none"] = "final"
    prompt_tokens: int = 7
    comments: int = 0
    cut_after: int | None = None
    error_after: int | None = None
    close: bool = False
    finish_reason: str = "length"


@dataclass(kw_only=True)
class Written:
    """What the server did for one request: when it had read it and wrote each event (``time.perf_counter``)."""

    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    read: float
    events: list[float] = field(default_factory=list)


Script = Callable[[int, dict[str, Any]], Reply]


class FakeOpenAI:
    """Serves ``script(number, body)`` to the streamed requests; use it with ``with``.

    ``stalls`` are (begin, end) in seconds after ``stall_from``, which a script sets; no event is written meanwhile.
    ``refused`` are fields of a body that are answered with 400.
    """

    def __init__(
        self,
        script: Script,
        *,
        words_per_token: int = 1,
        tokenize: bool = True,
        key: str | None = None,
        refused: Sequence[str] = (),
        stalls: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.script, self.key, self.refused = script, key, refused
        self.words_per_token, self.tokenize = words_per_token, tokenize
        self.stalls = stalls
        self.answered: list[Written] = []
        self.connections = 0
        self.stall_from: float | None = None
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10):  # no assert: under -O it would not even wait
            raise RuntimeError("the server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return self._plain(writer, 401, {"error": {"message": "no such key"}})
        if path == "/health":
            return self._plain(writer, 200, {})
        if path == "/version":
            return self._plain(writer, 200, {"version": "1.2.3"})
        if path == "/v1/models":
            return self._plain(writer, 200, {"object": "list", "data": [{"id": "fake", "max_model_len": 4096}]})
        if path == "/tokenize" and self.tokenize:
            return self._plain(writer, 200, {"count": 2 + len(body["prompt"].split()) // self.words_per_token})
        if method != "POST" or path not in ("/v1/completions", "/v1/chat/completions"):
            return self._plain(writer, 404, {"error": {"message": "no such route"}})
        names = {*body, *body.get("stream_options", {})}
        for name in self.refused:
            if name in names:
                return self._plain(writer, 400, {"error": {"message": f"unknown field {name}", "param": name}})
        if not body.get("stream"):
            count = 2 + len(json.dumps(body.get("prompt", body.get("messages"))).split()) // self.words_per_token
            return self._plain(writer, 200, {"usage": {"prompt_tokens": count, "completion_tokens": 1}})
        written = Written(body=body, headers=headers, path=path, read=time.perf_counter())
        self.answered.append(written)
        return await self._stream(writer, self.script(len(self.answered) - 1, body), written)

    def _plain(
        self, writer: asyncio.StreamWriter, status: int, answer: Any, more: dict[str, str] | None = None
    ) -> bool:
        data = json.dumps(answer).encode()
        lines = "".join(f"{name}: {value}\r\n" for name, value in (more or {}).items())
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n{lines}\r\n".encode() + data)
        return True

    async def _stream(self, writer: asyncio.StreamWriter, reply: Reply, written: Written) -> bool:
        if reply.status != 200:
            await asyncio.sleep(reply.events[0].delay if reply.events else 0)
            answer = reply.body if reply.body is not None else {"error": {"message": "scripted", "code": reply.status}}
            return self._plain(writer, reply.status, answer, reply.headers)
        chat = written.path.endswith("chat/completions")
        wanted = written.body.get("stream_options", {})
        continuous = reply.usage == "continuous" and wanted.get("continuous_usage_stats")
        framing = "connection: close" if reply.close else "transfer-encoding: chunked"
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{framing}\r\n\r\n".encode())

        def send(payload: bytes) -> None:
            writer.write(payload if reply.close else b"%x\r\n%s\r\n" % (len(payload), payload))

        for _ in range(reply.comments):
            send(b": keep-alive\n\n")
        if chat:
            send(_event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}))
        total = 0
        for place, event in enumerate(reply.events):
            await asyncio.sleep(event.delay)
            await self._wait_out_stalls()
            if place == reply.cut_after:
                writer.transport.abort()
                return False
            if place == reply.error_after:
                send(_event({"error": {"message": "the engine fell over"}}))
                break
            total += event.tokens
            last = place == len(reply.events) - 1
            choice: dict[str, Any] = {"index": 0, "finish_reason": reply.finish_reason if last else None}
            choice |= {"delta": {"content": event.text}} if chat else {"text": event.text}
            payload: dict[str, Any] = {"choices": [choice]}
            if continuous:
                payload["usage"] = _usage(reply.prompt_tokens, total)
            written.events.append(time.perf_counter())
            send(_event(payload))
        if reply.usage != "none" and wanted.get("include_usage"):
            send(_event({"choices": [], "usage": _usage(reply.prompt_tokens, total)}))
        send(b"data: [DONE]\n\n")
        if reply.close:
            await writer.drain()
            return False
        writer.write(b"0\r\n\r\n")
        return True

    async def _wait_out_stalls(self) -> None:
        """Nothing is written between ``stall_from`` plus the ends of a stall."""
        if self.stall_from is None:
            return
        for begin, end in self.stalls:
            now = time.perf_counter() - self.stall_from
            if begin <= now < end:
                await asyncio.sleep(end - now)


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
