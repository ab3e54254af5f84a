"""Medians, spreads, and ratios of paired measurements with distribution-free intervals.

Machines that are shared move between two measurements, so two engines are compared pair by pair: the ratio of two
neighbouring measurements, then the median of the ratios. Its interval comes from order statistics and needs no
assumption but that the pairs are alike. Knows numbers only.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Several measurements of one thing, in the unit of the values; ``count`` is how many."""

    median: float
    smallest: float
    largest: float
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """The median of paired ratios. The median of all such pairs lies in [``low``, ``high``] with probability
    ``coverage``, which is below 0.95 where there are fewer than six pairs."""

    median: float
    low: float
    high: float
    coverage: float
    num_pairs: int


def summarize(values: Sequence[float]) -> Spread:
    """Median and ends of at least one measurement."""
    return Spread(median=statistics.median(values), smallest=min(values), largest=max(values), count=len(values))


def paired_ratio(first: Sequence[float], second: Sequence[float], *, confidence: float = CONFIDENCE) -> Ratio:
    """The median of ``first[i] / second[i]`` with an interval from order statistics.

    Args:
        first, second: positive, of one length, at least one pair.
        confidence: the narrowest interval that covers at least this is taken; where none does, the widest.
    """
    ratios = sorted(a / b for a, b in zip(first, second, strict=True))
    place, coverage = median_interval(len(ratios), confidence)
    return Ratio(
        median=statistics.median(ratios),
        low=ratios[place],
        high=ratios[-1 - place],
        coverage=coverage,
        num_pairs=len(ratios),
    )


def median_interval(count: int, confidence: float) -> tuple[int, float]:
    """Which order statistics bound a median: (values to leave out at each end, probability that it lies between).

    The median lies outside the k-th smallest and k-th largest of n values with probability 2 P(Binomial(n, 1/2) < k).

    >>> median_interval(5, 0.95), median_interval(9, 0.95)
    ((0, 0.9375), (1, 0.9609375))
    """
    place, coverage = 0, 1 - 2 / 2**count if count > 1 else 0.0
    outside = 1
    for left_out in range(1, (count + 1) // 2):
        outside += math.comb(count, left_out)
        inside = 1 - 2 * outside / 2**count
        if inside < confidence:
            break
        place, coverage = left_out, inside
    return place, coverage
