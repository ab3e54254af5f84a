"""One request from being sent to its end, written into its record. Whatever goes wrong is a result, never raised."""

import asyncio
import json
import time
from collections.abc import Callable

from flyweight.bench.load.answers import AnswerReader, error_text
from flyweight.bench.load.asks import PATHS, Ask, BodyWriter
from flyweight.bench.load.http_client import HttpClient, Response
from flyweight.bench.load.recording import RequestRecord
from flyweight.bench.load.sse import ConnectionCutError, SseParser, StreamError


class AnswerClient:
    """Sends asks to one server and reads their answers as they come."""

    def __init__(
        self, http: HttpClient, writer: BodyWriter, *, timeout: float, count: Callable[[str], int] | None = None
    ) -> None:
        """``timeout``: seconds for a whole answer. ``count`` tells the tokens of a text for servers without usage."""
        self._http, self._writer, self._timeout, self._count = http, writer, timeout, count
        self.comments = 0
        self.bytes_received = 0
        self.num_events = 0

    def encode(self, ask: Ask) -> bytes:
        """The request as it goes over the wire, made before it is due."""
        return self._http.request_bytes("POST", PATHS[self._writer.endpoint], self._writer.body(ask))

    async def answer(self, request: bytes, record: RequestRecord) -> None:
        """Carry out one encoded request. A cancelled one is recorded as interrupted and the cancellation goes on."""
        reader = AnswerReader(record)
        response: Response | None = None
        record.sent = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._http.send(request)
                record.status, record.connect_seconds = response.status, response.connect_seconds
                if response.status == 200 and _is_stream(response):
                    await self._read_stream(response, reader)
                else:
                    _read_refusal(response, await response.read(), record)
        except TimeoutError:
            record.fail("timeout", f"no whole answer after {self._timeout:g} s")
        except ConnectionCutError as error:
            record.fail("connection", str(error))
        except StreamError as error:
            record.fail("stream", str(error))
        except OSError as error:
            record.fail("connection", f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            record.fail("interrupted", "the run was interrupted")
            raise
        finally:
            record.end = time.perf_counter()
            if record.failure and response is not None:
                response.abort()
            if record.status == 200:
                reader.finish(self._count)

    async def _read_stream(self, response: Response, reader: AnswerReader) -> None:
        parser = SseParser()
        async for moment, piece in response:
            self.bytes_received += len(piece)
            for data in parser.feed(piece):
                self.num_events += 1
                reader.read(moment, data)
        self.comments += parser.comments


def _is_stream(response: Response) -> bool:
    return response.headers.get("content-type", "").lower().startswith("text/event-stream")


def _read_refusal(response: Response, body: bytes, record: RequestRecord) -> None:
    """A status other than 200, or an answer that is no stream."""
    if response.status == 200:
        kind = response.headers.get("content-type", "nothing")
        record.fail("stream", f"the answer is {kind[:60]} where text/event-stream was asked for")
        return
    try:
        message = error_text(json.loads(body))
    except ValueError:
        message = error_text(body.decode(errors="replace"))
    record.retry_after = _seconds(response.headers.get("retry-after"))
    record.fail("status", f"{response.status}: {message}")


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; a date or nonsense is None."""
    try:
        value = float(text) if text is not None else -1.0
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
