"""Connections that send nothing, or their headers byte by byte, are closed: uvicorn itself waits for them for ever."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def guarded_protocol(header_seconds: float) -> type[H11Protocol]:
    """HTTP/1.1 where the headers of a connection's first request must be there in time. Between requests uvicorn's own
    keep-alive time counts."""

    class GuardedProtocol(H11Protocol):
        _header_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._header_timer = self.loop.call_later(header_seconds, self._close_unless_asked)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
            super().connection_lost(exc)

        def _close_unless_asked(self) -> None:
            if self.cycle is None and not self.transport.is_closing():
                self.transport.close()

    return GuardedProtocol
