"""Service levels: which requests were answered well enough to count as goodput."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from flyweight.errors import UsageError, nearest

MEASURES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceLevel:
    """Most milliseconds of one measure of a request."""

    measure: str
    milliseconds: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``ttft:500``.

        Raises:
            UsageError: another form, or a measure that is not ttft, tpot or e2e.
        """
        measure, _, limit = text.partition(":")
        measure = "e2e" if measure == "e2el" else measure  # vLLM's name
        if measure not in MEASURES:
            raise UsageError(
                f"service level {text!r} names no measure; known: {', '.join(MEASURES)}{nearest(measure, MEASURES)}"
            )
        try:
            milliseconds = float(limit)
        except ValueError:
            milliseconds = 0.0
        if not 0 < milliseconds < float("inf"):
            raise UsageError(f"service level {text!r} has no positive limit; write milliseconds, such as {measure}:500")
        return cls(measure=measure, milliseconds=milliseconds)


def parse_levels(texts: Sequence[str]) -> tuple[ServiceLevel, ...]:
    """
    Raises:
        UsageError: a text that cannot be read, or a measure named twice.
    """
    levels = tuple(ServiceLevel.parse(text) for text in texts)
    if len({level.measure for level in levels}) < len(levels):
        raise UsageError(f"service levels {', '.join(texts)} limit a measure twice; name each once")
    return levels
