"""Counts of values between bounds: what a histogram is made of, cheap enough for every step.

It knows no names, labels or output formats.
"""

from bisect import bisect_left
from collections.abc import Sequence


class BucketCounts:
    """Counts values in the buckets up to each of ``bounds`` (increasing) and beyond the last.

    Not guarded against threads: its owner is.
    """

    __slots__ = ("_counts", "bounds", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(float(bound) for bound in bounds)
        self.total = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, count: int = 1) -> None:
        """Count ``value`` so many times; a value equal to a bound belongs to its bucket."""
        self._counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> list[tuple[str, float]]:
        """(bound as text, values at or below it), the last for ``+Inf``: as Prometheus wants them."""
        seen = 0
        pairs = []
        for bound, count in zip((*self.bounds, float("inf")), self._counts, strict=True):
            seen += count
            pairs.append(("+Inf" if bound == float("inf") else repr(bound), float(seen)))
        return pairs


def token_bounds(most: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 ... up to and including the first at or above ``most`` tokens."""
    bounds: list[float] = []
    power = 1
    while True:
        for factor in (1, 2, 5):
            bounds.append(float(factor * power))
            if factor * power >= most:
                return tuple(bounds)
        power *= 10
