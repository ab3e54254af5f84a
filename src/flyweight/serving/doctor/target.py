"""A server that is examined: asked over HTTP as any client would, or by raw bytes.

It uses nothing but sockets and the standard library's client, so that what is sent is what is meant.
"""

import http.client
import json
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from flyweight.errors import UsageError

PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back; ``status`` 0 for a connection that was closed without an answer, -1 for none in time."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0

    def json(self) -> Any:
        """The body as JSON, None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def message(self) -> str:
        """The error's words."""
        found = self.json()
        error = found.get("error") if isinstance(found, dict) else None
        return str(error.get("message", "")) if isinstance(error, dict) else ""

    def __str__(self) -> str:
        if self.status <= 0:
            return "no answer in time" if self.status else "the connection was closed"
        return f"{self.status} {self.message or self.body[:80]!r}"


class Target:
    """A server and two keys of it.

    Args:
        url: such as http://127.0.0.1:8000.
        key, other_key: API keys of two different clients; empty where the server has none.

    Raises:
        UsageError: when the URL is none of http or https.
    """

    def __init__(self, url: str, *, key: str = "", other_key: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is not the address of a server; write it as http://HOST:PORT")
        self.url = url.rstrip("/")
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.key, self.other_key = key, other_key
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._connection: http.client.HTTPConnection | None = None

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: dict[str, str] | None = None,
        key: str | None = None,
        timeout: float = PATIENCE,
    ) -> Answer:
        """Ask and read the whole answer. ``key`` None sends the usual one, an empty text none."""
        sent = dict(headers or {})
        used = self.key if key is None else key
        if used:
            sent.setdefault("Authorization", f"Bearer {used}")
        if body is not None:
            sent.setdefault("Content-Type", "application/json")
        began = time.monotonic()
        for is_last in (False, True):
            fresh = self._connection is None
            if self._connection is None:
                kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
                self._connection = kind(self.host, self.port, timeout=timeout, **self._tls_arguments)
            try:
                return self._exchange(self._connection, method, path, body, sent, began)
            except TimeoutError:
                self.close()
                return Answer(status=-1, seconds=time.monotonic() - began)
            except (OSError, http.client.HTTPException):
                self.close()
                if fresh or is_last:  # an old connection may have been closed while it was idle
                    break
        return Answer(status=0, seconds=time.monotonic() - began)

    def post(self, path: str, body: Any, *, key: str | None = None, timeout: float = PATIENCE) -> Answer:
        """Send a JSON body."""
        return self.ask("POST", path, json.dumps(body).encode(), key=key, timeout=timeout)

    def send_raw(self, *pieces: bytes, timeout: float = PATIENCE, pause: float = 0.0) -> Answer:
        """Send bytes on a connection of their own and read until the server closes it or has sent one answer."""
        began = time.monotonic()
        try:
            with self.connect(timeout) as connection:
                try:
                    for place, piece in enumerate(pieces):
                        if place and pause:
                            time.sleep(pause)
                        connection.sendall(piece)
                except OSError:
                    pass  # refused in the middle: the answer may be there all the same
                response = http.client.HTTPResponse(connection)
                response.begin()
                return Answer(
                    status=response.status,
                    headers={name.lower(): value for name, value in response.getheaders()},
                    body=response.read(),
                    seconds=time.monotonic() - began,
                )
        except TimeoutError:
            return Answer(status=-1, seconds=time.monotonic() - began)
        except (OSError, http.client.HTTPException, ValueError):
            return Answer(status=0, seconds=time.monotonic() - began)

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        """A connection of its own."""
        connection = socket.create_connection((self.host, self.port), timeout=timeout)
        return self._tls.wrap_socket(connection, server_hostname=self.host) if self._tls else connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _tls_arguments(self) -> dict[str, Any]:
        return {"context": self._tls} if self._tls else {}

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        began: float,
    ) -> Answer:
        try:
            connection.request(method, path, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            if body is None or len(body) < 65536:
                raise
            # A body that is too large is refused while it is still being sent; the answer lies there already.
        response = connection.getresponse()
        content = response.read()
        if response.will_close:
            self.close()
        return Answer(
            status=response.status,
            headers={name.lower(): value for name, value in response.getheaders()},
            body=content,
            seconds=time.monotonic() - began,
        )
