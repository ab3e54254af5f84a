"""A small HTTP/1.1 client over asyncio: kept connections, TLS, and a time stamp on each piece at the moment it came.

The stamp is taken in the callback that the event loop makes with the bytes, before anything is parsed.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from flyweight.bench.load.http_response import ResponseParser
from flyweight.bench.load.sse import ConnectionCutError, StreamError
from flyweight.errors import UsageError

LARGEST_ANSWER = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where a server listens; ``path`` is what precedes ``/v1``."""

    host: str
    port: int
    secure: bool
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """From ``http://127.0.0.1:8000``, with or without ``/v1``.

        Raises:
            UsageError: no http or https URL with a host; user names, queries and fragments are refused.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"URL {url!r} cannot be read: {error}; write it like http://127.0.0.1:8000") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"URL {url!r} names no server; write it like http://127.0.0.1:8000")
        if parts.username is not None or parts.query or parts.fragment:
            raise UsageError(
                "the URL has a user name, query or fragment; give the address alone and keys by environment"
            )
        if any(not 32 < ord(letter) < 127 for letter in url):
            raise UsageError(f"URL {url!r} has characters that no address has; write it like http://127.0.0.1:8000")
        secure = parts.scheme == "https"
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(host=parts.hostname, port=port or (443 if secure else 80), secure=secure, path=path)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


class _Connection(asyncio.Protocol):
    """One connection; at most one exchange at a time."""

    def __init__(self) -> None:
        self.parser = ResponseParser()
        self.pieces: deque[tuple[float, bytes]] = deque()
        self.failure: Exception | None = None
        self.closed = False
        self.transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport by construction

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        try:
            self.pieces.extend((now, piece) for piece in self.parser.feed(data))
        except StreamError as error:
            self._fail(error)
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        try:
            self.parser.end()
        except StreamError as error:
            self.failure = self.failure or exc or error
        self._wake()

    def begin(self, request: bytes) -> None:
        self.parser, self.failure = ResponseParser(), None
        self.pieces.clear()
        if self.transport is None or self.closed:
            raise ConnectionResetError("the connection was closed")
        self.transport.write(request)

    async def wait(self) -> None:
        """Until something more has come."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
        self.closed = True

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Response:
    """A response whose head has come; its body is read once, by iterating or by :meth:`read`."""

    def __init__(self, connection: _Connection, client: "HttpClient", connect_seconds: float | None) -> None:
        self._connection, self._client = connection, client
        self.status = connection.parser.status
        self.headers = connection.parser.headers
        self.connect_seconds = connect_seconds
        """What opening the connection took; None where a kept one was used."""

    async def __aiter__(self) -> AsyncIterator[tuple[float, bytes]]:
        """Pieces of the body with the moments (``time.perf_counter``) they came.

        Raises:
            StreamError, OSError: the body broke off.
        """
        connection = self._connection
        while True:
            while connection.pieces:
                yield connection.pieces.popleft()
            if connection.failure is not None:
                raise connection.failure
            if connection.parser.complete:
                self._client.give_back(connection)
                return
            await connection.wait()

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            StreamError, OSError: the body broke off, or is longer than 64 MiB.
        """
        found = bytearray()
        async for _, piece in self:
            found += piece
            if len(found) > LARGEST_ANSWER:
                raise StreamError(f"the answer is longer than {LARGEST_ANSWER:,} bytes")
        return bytes(found)

    def abort(self) -> None:
        """Break the connection off, which is how a client goes away."""
        self._connection.abort()


class HttpClient:
    """Asks one server. Connections are kept and used again, the last one first."""

    def __init__(self, address: Address, *, api_key: str | None = None) -> None:
        self.address = address
        self._idle: list[_Connection] = []
        self._tls = ssl.create_default_context() if address.secure else None
        lines = [f"host: {address.authority}", "user-agent: flyweight-bench-load", "accept: */*"]
        if api_key:
            if any(not 32 < ord(letter) < 127 for letter in api_key):
                raise UsageError("the API key has characters that no header may carry; check the environment variable")
            lines.append(f"authorization: Bearer {api_key}")
        self._headers = "\r\n".join(lines)

    def request_bytes(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> bytes:
        """A request as it goes over the wire."""
        more = "".join(f"\r\n{name}: {value}" for name, value in (headers or {}).items())
        length = f"\r\ncontent-type: application/json\r\ncontent-length: {len(body)}" if body else ""
        return f"{method} {self.address.path}{path} HTTP/1.1\r\n{self._headers}{length}{more}\r\n\r\n".encode() + body

    async def send(self, request: bytes) -> Response:
        """Send and wait for the head of the answer. A kept connection that the server has closed meanwhile is
        replaced once, as long as nothing of an answer came.

        Raises:
            StreamError, OSError: no connection, or no answer in HTTP/1.1.
        """
        while True:
            kept = self._take_idle()
            connect_seconds = None
            if kept is None:
                began = time.perf_counter()
                kept = await self._connect()
                connect_seconds = time.perf_counter() - began
            try:
                kept.begin(request)
                while not kept.parser.status:
                    if kept.failure is not None:
                        raise kept.failure
                    if kept.closed:
                        raise ConnectionCutError("the connection was closed without an answer")
                    await kept.wait()
            except (OSError, StreamError):
                kept.abort()
                if connect_seconds is None and not kept.parser.started:
                    continue
                raise
            except asyncio.CancelledError:
                kept.abort()
                raise
            return Response(kept, self, connect_seconds)

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        response = await self.send(self.request_bytes("GET", path))
        return response.status, await response.read()

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of a POST of JSON."""
        response = await self.send(self.request_bytes("POST", path, body))
        return response.status, await response.read()

    def give_back(self, connection: _Connection) -> None:
        """Keep a connection whose answer has been read, where the server keeps it as well."""
        if connection.parser.keeps_connection and not connection.closed:
            self._idle.append(connection)
        else:
            connection.abort()

    def close(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self.address.host, self.address.port, ssl=self._tls)
        return connection
