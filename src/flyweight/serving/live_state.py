"""How one model has done over the last minutes, second by second: what the page draws.

A ring of intervals of a fixed length. Everything runs in the event loop's thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flyweight.serving.observation import AnswerName, Finished, GrammarCompiled, Rejected, StepTaken, Submitted

INTERVAL_SECONDS = 2
NUM_INTERVALS = 151  # five minutes and the interval that is not over
HEADLINE_INTERVALS = 5  # tokens per second in figures: over ten seconds
LATENCY_INTERVALS = 30  # latencies in figures: over a minute


@dataclass(kw_only=True, slots=True)
class _Interval:
    """What happened in one interval. ``gaps`` are the tokens that ``gap_seconds`` lie before."""

    number: int = -1
    tokens: int = 0
    first_tokens: int = 0
    first_token_seconds: float = 0.0
    gaps: int = 0
    gap_seconds: float = 0.0
    running: int = 0
    cache_usage: float = 0.0


class LiveState:
    """The recent past of one served name; an observer.

    Args:
        clock: seconds as in the events.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ring = [_Interval() for _ in range(NUM_INTERVALS)]
        self._began = self._number(clock())
        self._queued_at: dict[str, list[float]] = {}  # by request: when it came, and how many answers are open
        self._last_token: dict[AnswerName, float] = {}

    def on_submitted(self, event: Submitted) -> None:
        self._queued_at[event.request_id] = [event.at, len(event.prompt_tokens) * event.samples]

    def on_compiled(self, event: GrammarCompiled) -> None:
        """Grammars are not shown."""

    def on_rejected(self, event: Rejected) -> None:
        """Refused requests take no time of the engine."""

    def on_step(self, event: StepTaken) -> None:
        now = self._interval(event.ended)
        now.running = max(now.running, event.metrics.running, len(event.chunks))
        now.cache_usage = max(now.cache_usage, event.metrics.cache_usage)
        for name, count in event.answered:
            now.tokens += count
            before = self._last_token.get(name)
            self._last_token[name] = event.ended
            if before is not None:
                now.gaps += count
                now.gap_seconds += event.ended - before
            elif name.request_id in self._queued_at:
                now.first_tokens += 1
                now.first_token_seconds += event.ended - self._queued_at[name.request_id][0]

    def on_finished(self, event: Finished) -> None:
        self._last_token.pop(event.name, None)
        state = self._queued_at.get(event.name.request_id)
        if state is not None:
            state[1] -= 1
            if state[1] <= 0:
                del self._queued_at[event.name.request_id]

    def describe(self) -> dict[str, Any]:
        """Figures of the last seconds and the history, oldest first; None where nothing was measured.

        The present interval is not over and is left out of rates.
        """
        last = self._number(self._clock())
        history = [self._at(number) for number in range(last - NUM_INTERVALS + 1, last + 1)]
        past = history[:-1]
        known = min(HEADLINE_INTERVALS, last - self._began)
        recent = past[len(past) - known :] if known else [history[-1]]
        minute = history[-LATENCY_INTERVALS:]
        return {
            "tokens_per_second": sum(one.tokens for one in recent) / (INTERVAL_SECONDS * len(recent)),
            "time_to_first_token_seconds": _ratio(
                sum(one.first_token_seconds for one in minute), sum(one.first_tokens for one in minute)
            ),
            "time_per_output_token_seconds": _ratio(
                sum(one.gap_seconds for one in minute), sum(one.gaps for one in minute)
            ),
            "history": {
                "interval_seconds": INTERVAL_SECONDS,
                "tokens_per_second": [
                    one.tokens / INTERVAL_SECONDS if one.number >= self._began else None for one in past
                ],
                "time_to_first_token_seconds": [_ratio(one.first_token_seconds, one.first_tokens) for one in past],
                "time_per_output_token_seconds": [_ratio(one.gap_seconds, one.gaps) for one in past],
                "running": [one.running if one.number >= self._began else None for one in past],
                "cache_usage": [one.cache_usage if one.number >= self._began else None for one in past],
            },
        }

    def _number(self, at: float) -> int:
        return int(at // INTERVAL_SECONDS)

    def _interval(self, at: float) -> _Interval:
        number = self._number(at)
        found = self._ring[number % NUM_INTERVALS]
        if found.number != number:
            found = self._ring[number % NUM_INTERVALS] = _Interval(number=number)
        return found

    def _at(self, number: int) -> _Interval:
        """One interval as it was; empty when nothing happened in it."""
        found = self._ring[number % NUM_INTERVALS]
        return found if found.number == number else _Interval(number=number)


def _ratio(value: float, count: int) -> float | None:
    return value / count if count else None
