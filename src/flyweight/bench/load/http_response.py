"""An HTTP/1.1 response out of the bytes of a connection: status, headers, and a body of any of the three framings.

A push parser: it owns no socket and no time. Written for measuring, where a general client's own work per piece of a
stream (see docs/results/load-generator.md) would be part of what is measured.
"""

from collections.abc import Mapping

from flyweight.bench.load.sse import ConnectionCutError, StreamError

LONGEST_HEAD = 64 * 1024
MAX_LENGTH_DIGITS = 16


class ResponseParser:
    """Feed bytes, get pieces of the body. ``status`` is 0 until the head is complete."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.complete = False
        self.keeps_connection = False
        self.started = False
        self._rest = b""
        self._left: int | None = None  # bytes of the body, or of the chunk; None: until the connection closes
        self._chunked = False
        self._in_trailer = False

    def feed(self, data: bytes) -> list[bytes]:
        """Pieces of the body that ``data`` brings.

        Raises:
            StreamError: these bytes are no HTTP/1.1 response.
        """
        self.started = True
        if self.complete:
            raise StreamError("the server sent bytes after the end of its answer")
        if self.status:
            return self._body(data)
        self._rest += data
        while not self.status:
            end = self._rest.find(b"\r\n\r\n")
            if end < 0:
                if len(self._rest) > LONGEST_HEAD:
                    raise StreamError(f"the head of the answer is longer than {LONGEST_HEAD:,} bytes")
                return []
            head, self._rest = self._rest[:end], self._rest[end + 4 :]
            self._read_head(head)
        rest, self._rest = self._rest, b""
        return self._body(rest)

    def end(self) -> None:
        """The connection was closed.

        Raises:
            ConnectionCutError: the body was not complete.
        """
        if not self.complete:
            if self.status and not self._chunked and self._left is None:
                self.complete = True
                return
            raise ConnectionCutError(
                "the connection was closed in the middle of the answer" if self.started else "the connection was closed"
            )

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, rest = first.partition(" ")
        code = rest[:3]
        if not version.startswith("HTTP/1.") or not code.isdigit():
            raise StreamError(f"the answer begins with {first[:60]!r}, which is not HTTP/1.1")
        if code.startswith("1") and code != "101":
            return  # informational: another head follows
        self.headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        connection = self.headers.get("connection", "").lower()
        self.keeps_connection = connection != "close" and (version != "HTTP/1.0" or connection == "keep-alive")
        self._chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        length = self.headers.get("content-length")
        if self._chunked:
            self._left = 0
        elif length is not None:
            if not (length.isascii() and length.isdigit() and len(length) <= MAX_LENGTH_DIGITS):
                raise StreamError(f"content-length {length[:40]!r} is no number")
            self._left = int(length)
        else:
            self._left = 0 if code in ("204", "304") else None
            self.keeps_connection = self.keeps_connection and self._left is not None
        self.status = int(code)
        self.complete = not self._chunked and self._left == 0

    def _body(self, data: bytes) -> list[bytes]:
        if not data:
            return []
        if self._chunked:
            return self._chunks(data)
        if self._left is None:
            return [data]
        if len(data) > self._left:
            raise StreamError("the answer is longer than its content-length")
        self._left -= len(data)
        self.complete = self._left == 0
        return [data]

    def _chunks(self, data: bytes) -> list[bytes]:
        data = self._rest + data
        pieces: list[bytes] = []
        place = 0
        while place < len(data):
            if self._left:
                piece = data[place : place + self._left]
                pieces.append(piece)
                place += len(piece)
                self._left -= len(piece)
                if self._left == 0:
                    self._left = None  # the line end after a chunk's data comes next
                continue
            end = data.find(b"\r\n", place)
            if end < 0:
                break
            line, place = data[place:end], end + 2
            if self._left is None and not self._in_trailer:
                if line:
                    raise StreamError("a chunk of the answer is longer than it says")
                self._left = 0
            elif self._in_trailer:
                if not line:
                    self.complete = True
                    if place < len(data):
                        raise StreamError("the server sent bytes after the end of its answer")
            else:
                size = line.partition(b";")[0].strip()
                try:
                    self._left = int(size, 16)
                except ValueError:
                    raise StreamError(f"{size[:40]!r} is no chunk size") from None
                if self._left < 0 or len(size) > MAX_LENGTH_DIGITS:
                    raise StreamError(f"{size[:40]!r} is no chunk size")
                self._in_trailer = self._left == 0
        self._rest = data[place:]
        if len(self._rest) > LONGEST_HEAD:
            raise StreamError(f"a chunk header is longer than {LONGEST_HEAD:,} bytes")
        return pieces
