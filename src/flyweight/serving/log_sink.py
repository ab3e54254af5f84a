"""Lines written to a file or pipe by a thread of its own, so that no request ever waits for a disk.

What cannot be written is dropped and counted: a full disk, a closed pipe, a reader that has stopped. It knows neither
requests nor what lines mean.
"""

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable

log = logging.getLogger("flyweight")

STOP = None


class LogSink:
    """Writes lines to a file descriptor in the background.

    Args:
        descriptor: of an open file, pipe or terminal; it stays its owner's to close.
        most_waiting: lines that may wait to be written; more are dropped.

    ``write`` may be called from any thread and never blocks or raises.
    """

    def __init__(self, descriptor: int, *, most_waiting: int = 4096) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[Callable[[], str] | None] = queue.Queue(most_waiting)
        self._dropped = 0
        self._lock = threading.Lock()
        self._closed = False
        self._warned = False
        self._mid_line = False
        # A daemon: a reader that never reads must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="flyweight-log-sink", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were lost since the start."""
        return self._dropped

    def write(self, make_line: Callable[[], str]) -> None:
        """Write what ``make_line`` returns, one line without its end; it is called in the sink's thread."""
        if self._closed:
            self._drop()
            return
        try:
            self._lines.put_nowait(make_line)
        except queue.Full:
            self._drop()

    def close(self, timeout: float = 1.0) -> None:
        """Write what waits, for ``timeout`` seconds at most, and end."""
        self._closed = True
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(STOP)
        self._thread.join(timeout)

    def _drop(self) -> None:
        with self._lock:
            self._dropped += 1

    def _run(self) -> None:
        while (make_line := self._lines.get()) is not STOP:
            try:
                self._write_line(make_line())
            except Exception as error:  # noqa: BLE001 (a line that cannot be made or written ends nothing but itself)
                self._drop()
                if not self._warned:  # once: what is said about it may go to the same full disk
                    self._warned = True
                    with contextlib.suppress(Exception):
                        log.warning("request log: a line was lost (%s); later losses are only counted", error)

    def _write_line(self, line: str) -> None:
        data = (line + "\n").encode("utf-8", "backslashreplace")
        if self._mid_line:  # the disk was full in the middle of an earlier line
            data = b"\n" + data
        while data:
            written = os.write(self._descriptor, data)
            self._mid_line = written < len(data)
            data = data[written:]
