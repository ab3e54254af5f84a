"""Lines of the log, as words or JSON, and the observer that writes one for each answer that ends.

Lines hold ids, names of keys, counts and times, and not a word of a prompt or an answer. Every value is written so that
it stays on its line and within its field, whatever a client put into it.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from flyweight.serving.log_sink import LogSink
from flyweight.serving.observation import Finished, GrammarCompiled, HttpEnded, Rejected, StepTaken, Submitted

LogFormat = Literal["line", "json"]
LOG_FORMATS = ("line", "json")
MOST_CHARACTERS = 256
# Control characters of both planes, line and paragraph separators, marks that turn the direction of writing, and
# halves of surrogate pairs, which no encoding of a log can hold.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\\\\]")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+-]+")


def safe(text: str, most: int = MOST_CHARACTERS) -> str:
    """Text on one line: what could end a line, move a cursor or turn the writing is escaped, and long text is cut."""
    cut = text if len(text) <= most else text[:most] + "..."
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), cut)


def format_line(fields: dict[str, object], form: LogFormat, *, at: float) -> str:
    """One line of a log, without its end.

    Args:
        fields: names of our own and values of any origin; None is left out.
        at: seconds since 1970.
    """
    time = timestamp(at)
    known = {name: value for name, value in fields.items() if value is not None}
    if form == "json":
        shown = {name: safe(value) if isinstance(value, str) else _rounded(value) for name, value in known.items()}
        return json.dumps({"time": time, **shown}, ensure_ascii=True, separators=(",", ":"))
    return " ".join([time, *(f"{name}={_field(value)}" for name, value in known.items())])


def timestamp(at: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rounded(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value


def _field(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = safe(str(value))
    return text if _PLAIN.fullmatch(text) else '"' + text.replace('"', '\\"') + '"'


class RequestLog:
    """An observer that writes one line for each answer that ends and each request that is refused.

    Args:
        wall_clock: seconds since 1970.
    """

    def __init__(self, sink: LogSink, form: LogFormat, *, wall_clock: Callable[[], float]) -> None:
        self._sink = sink
        self._format: LogFormat = form
        self._wall_clock = wall_clock

    def on_submitted(self, event: Submitted) -> None:
        """Those that are under way are told by the metrics and by their timeline."""

    def on_step(self, event: StepTaken) -> None:
        """Steps are no lines of a log."""

    def on_compiled(self, event: GrammarCompiled) -> None:
        """A request with a grammar that is refused gives the line of its answer."""

    def on_rejected(self, event: Rejected) -> None:
        self._write(
            {
                "event": "refused",
                "id": event.request_id,
                "model": event.model,
                "key": event.owner or None,
                "reason": event.reason,
                "retry_after": event.retry_after,
            }
        )

    def on_finished(self, event: Finished) -> None:
        record = event.record
        fields: dict[str, object] = {
            "event": "embedded" if event.is_embedding else "finished",
            "id": event.name.request_id,
            "prompt": event.name.prompt or None,
            "sample": event.name.sample or None,
            "model": event.model,
            "key": event.owner or None,
            "outcome": event.outcome,
            "seconds": event.ended_at - event.queued_at,
        }
        if record is not None and record.began:
            fields |= {
                "queue_seconds": record.began - event.queued_at,
                "first_token_seconds": record.first_token - event.queued_at if record.first_token else None,
                "prompt_tokens": record.prompt_tokens,
                "cached_tokens": record.cached_tokens,
                "answer_tokens": record.answer_tokens,
                "preemptions": record.preemptions or None,
            }
        self._write(fields)

    def http(self, ended: HttpEnded) -> None:
        """An HTTP request was answered."""
        self._write(
            {
                "event": "http",
                "id": ended.request_id,
                "method": ended.method,
                "route": ended.route,
                "status": ended.status,
                "seconds": ended.ended - ended.began,
            }
        )

    def _write(self, fields: dict[str, object]) -> None:
        at = self._wall_clock()
        self._sink.write(lambda: format_line(fields, self._format, at=at))
