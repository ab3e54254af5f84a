"""The log of a server process: all that this package and the HTTP library say, and one line for each request, in one
form through one sink. It knows no models.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from flyweight.serving.log_sink import LogSink
from flyweight.serving.request_log import LogFormat, safe, timestamp

LOGGERS = ("flyweight", "uvicorn")
LONGEST_MESSAGE = 4096
LONGEST_TRACE = 65536


class SinkHandler(logging.Handler):
    """Writes records through a sink; what a record says stays on its own lines."""

    def __init__(self, sink: LogSink, form: LogFormat) -> None:
        super().__init__()
        self._sink = sink
        self._format: LogFormat = form

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = format_record(record, self._format)
        except Exception:  # noqa: BLE001 - a record that cannot be written must not end who wrote it
            line = f"{timestamp(record.created)} ERROR a record of {safe(record.name)} could not be formatted"
        self._sink.write(lambda: line)


def format_record(record: logging.LogRecord, form: LogFormat) -> str:
    """A record as words, with the lines of a trace indented below, or as one JSON object."""
    message = safe(record.getMessage(), LONGEST_MESSAGE)
    trace = ""
    if record.exc_info:
        trace = logging.Formatter().formatException(record.exc_info)[-LONGEST_TRACE:]
    if form == "json":
        found = {"time": timestamp(record.created), "level": record.levelname.lower(), "message": message}
        return json.dumps({**found, "trace": trace} if trace else found, separators=(",", ":"))
    lines = [f"{timestamp(record.created)} {record.levelname} {message}"]
    return "\n".join(lines + ["    " + safe(line, LONGEST_MESSAGE) for line in trace.splitlines()])


@contextmanager
def logging_to(descriptor: int, form: LogFormat, *, level: int = logging.INFO) -> Iterator[LogSink]:
    """Send the log of this process to a file descriptor, and give back what was set before."""
    sink = LogSink(descriptor)
    handler = SinkHandler(sink, form)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(one, one.level, one.propagate) for one in loggers]
    for one in loggers:
        one.addHandler(handler)
        one.setLevel(level)
        one.propagate = False
    try:
        yield sink
    finally:
        for one, old_level, propagated in before:
            one.removeHandler(handler)
            one.setLevel(old_level)
            one.propagate = propagated
        sink.close()
