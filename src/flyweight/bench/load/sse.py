"""Server-sent events out of the bytes of a stream, wherever the network cut them.

Follows the WHATWG definition as far as answers of language models use it: data lines, joined where an event has
several, and comments, which keep a connection alive. It knows nothing of what the data means.
"""

from flyweight.errors import FlyweightError

LONGEST_EVENT = 16 * 1024 * 1024


class StreamError(FlyweightError):
    """A stream that cannot be read as it was announced."""


class ConnectionCutError(StreamError):
    """The connection was closed before an answer was whole."""


class SseParser:
    """Feed bytes, get the data of whole events. ``comments`` counts comment lines."""

    def __init__(self) -> None:
        self.comments = 0
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that ``piece`` completes.

        Raises:
            StreamError: an event is longer than 16 MiB.
        """
        text = self._rest + piece
        if len(text) > LONGEST_EVENT:
            raise StreamError(f"an event of the stream is longer than {LONGEST_EVENT:,} bytes")
        lines = text.splitlines(keepends=True)
        # The last line is whole only with its end; a lone \r may be the first half of \r\n.
        self._rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        found = []
        for line in lines:
            line = line.rstrip(b"\r\n")
            if not line:
                if self._data:
                    found.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b":"):
                self.comments += 1
            elif line.startswith(b"data:"):
                value = line[5:]
                self._data.append(value[1:] if value.startswith(b" ") else value)
        return found
