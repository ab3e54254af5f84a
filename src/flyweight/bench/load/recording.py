"""What is known of one request: when it was due, sent and answered, what each event brought, and how it ended.

Times are seconds of one monotonic clock; :meth:`RequestRecord.shift` makes them relative to the beginning of a stage.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal, Self

TokensSource = Literal["usage", "tokenizer", "unknown"]
EventTokens = Literal["reported", "one each", "estimated", "unknown"]
Failure = Literal["", "status", "stream", "connection", "timeout", "interrupted"]


@dataclass(kw_only=True, slots=True)
class RequestRecord:
    """One request. None is what did not happen or is not known.

    ``scheduled`` is when the load shape wanted it (in a closed loop: when its place became free), ``sent`` when the
    client began with it. ``first_token`` is the first event with text or tokens, ``last_token`` the last one with text,
    tokens or a finish reason, ``end`` the end of the answer. ``event_tokens`` are the tokens at ``event_times``.
    """

    number: int
    scheduled: float
    wanted_input: int | None = None
    wanted_output: int | None = None
    sent: float | None = None
    connect_seconds: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    end: float | None = None
    status: int = 0
    failure: Failure = ""
    error: str = ""
    retry_after: float | None = None
    finish_reason: str = ""
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    tokens_from: TokensSource = "unknown"
    tokens_per_event: EventTokens = "unknown"
    event_times: list[float] = field(default_factory=list)
    event_tokens: list[float] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        """A whole answer came, with at least one token."""
        return not self.failure and self.end is not None and self.first_token is not None

    def fail(self, failure: Failure, error: str) -> None:
        """Note why it failed; the first reason stays."""
        if not self.failure:
            self.failure, self.error = failure, error

    def shift(self, start: float) -> None:
        """Make every time relative to ``start``."""
        self.scheduled -= start
        self.sent = None if self.sent is None else self.sent - start
        self.first_token = None if self.first_token is None else self.first_token - start
        self.last_token = None if self.last_token is None else self.last_token - start
        self.end = None if self.end is None else self.end - start
        self.event_times = [one - start for one in self.event_times]

    def seconds(self, moment: float | None, *, scheduled: bool) -> float | None:
        """From when it was due (``scheduled``) or sent until ``moment``."""
        begin = self.scheduled if scheduled else self.sent
        return None if moment is None or begin is None else moment - begin

    def ttft(self, *, scheduled: bool = False) -> float | None:
        """Seconds to the first token."""
        return self.seconds(self.first_token, scheduled=scheduled)

    def e2e(self, *, scheduled: bool = False) -> float | None:
        """Seconds to the last token."""
        return self.seconds(self.last_token, scheduled=scheduled)

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first: (e2e - ttft) / (out - 1). None with fewer than two tokens."""
        if self.first_token is None or self.last_token is None or self.output_tokens is None or self.output_tokens < 2:
            return None
        return (self.last_token - self.first_token) / (self.output_tokens - 1)

    def gaps(self) -> list[tuple[float, float]]:
        """(seconds since the event before, tokens in this one) of every event but the first that brought tokens."""
        if self.tokens_per_event == "unknown":
            return []
        moments = [
            (time, tokens) for time, tokens in zip(self.event_times, self.event_tokens, strict=True) if tokens > 0
        ]
        return [(b - a, tokens) for (a, _), (b, tokens) in pairwise(moments)]

    def to_row(self, *, events: bool) -> dict[str, Any]:
        """As JSON, times in seconds to the microsecond; the events only where they are wanted."""
        row = {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}
        row["event_times"] = [round(one, 6) for one in self.event_times] if events else []
        row["event_tokens"] = [round(one, 3) for one in self.event_tokens] if events else []
        return row

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """The record of a row; fields that a newer version may have added are not read."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in row.items() if name in known})


def share_tokens(
    record: RequestRecord, characters: list[int], *, reported: bool, count: Callable[[], int] | None
) -> None:
    """Say how many tokens the answer and each of its events have, once it is over.

    Args:
        characters: of the text of each event.
        reported: the server told the tokens of each event, which are in ``event_tokens``.
        count: counts the text's tokens where the server told no usage; None where there is no tokenizer.

    Events are never counted as tokens: where the server told only the sum, an event has one token if the numbers agree
    (an end-of-text token has no event), and else a share by the length of its text.
    """
    if record.output_tokens is not None:
        record.tokens_from = "usage"
    elif count is not None:
        record.output_tokens, record.tokens_from = count(), "tokenizer"
    events = len(record.event_times)
    if reported:
        record.tokens_per_event = "reported"
    elif record.output_tokens is None or not events:
        record.event_tokens = [0.0] * events
    elif record.output_tokens - events in (0, 1):
        record.event_tokens, record.tokens_per_event = [1.0] * events, "one each"
    else:
        whole = sum(characters) or 1
        record.event_tokens = [record.output_tokens * one / whole for one in characters]
        record.tokens_per_event = "estimated"
