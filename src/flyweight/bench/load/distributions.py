"""What a row of latencies comes to: mean, spread and percentiles, with intervals by a bootstrap of blocks.

Requests that follow one another share the server's state, so intervals are made by drawing blocks of neighbours, not
single requests; drawing these would make intervals too narrow. Knows numbers only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flyweight.bench.load.recording import RequestRecord

Values = np.ndarray[Any, np.dtype[np.float64]]
PERCENTILES = (50, 90, 95, 99)
CONFIDENCE = 0.95
RESAMPLES = 1000
FEWEST_FOR_INTERVAL = 8
MOST_DRAWN_AT_ONCE = 2_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """In the unit of the values. ``intervals`` has (low, high) of each figure by its name; it is empty below eight
    values. A percentile beyond the largest values that were seen is the largest: p99 needs hundreds of values."""

    count: int
    mean: float
    median: float
    std: float
    smallest: float
    largest: float
    p50: float
    p90: float
    p95: float
    p99: float
    intervals: Mapping[str, tuple[float, float]]

    def figure(self, name: str) -> float:
        """One figure by its name, such as ``p95``."""
        return float(getattr(self, name))


STATISTICS: Mapping[str, Callable[[Values], Values]] = {
    "mean": lambda rows: rows.mean(axis=-1),
    **{f"p{place}": (lambda rows, place=place: np.percentile(rows, place, axis=-1)) for place in PERCENTILES},  # type: ignore[misc]
}


def describe(values: Sequence[float], *, seed: int) -> Distribution | None:
    """The distribution of values in the order of their requests; None where there are none."""
    if not values:
        return None
    data = np.asarray(values, np.float64)
    percentiles = [float(one) for one in np.percentile(data, PERCENTILES)]
    return Distribution(
        count=len(data),
        mean=float(data.mean()),
        median=float(np.median(data)),
        std=float(data.std()),
        smallest=float(data.min()),
        largest=float(data.max()),
        p50=percentiles[0],
        p90=percentiles[1],
        p95=percentiles[2],
        p99=percentiles[3],
        intervals=_intervals(data, seed) if len(data) >= FEWEST_FOR_INTERVAL else {},
    )


def describe_weighted(values: Sequence[float], weights: Sequence[float]) -> Distribution | None:
    """The distribution in which each value counts as often as its weight says; no intervals."""
    data, mass = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    if not len(data) or mass.sum() <= 0:
        return None
    order = np.argsort(data)
    data, mass = data[order], mass[order]
    reached = np.cumsum(mass) / mass.sum()
    percentiles = [float(data[min(len(data) - 1, int(np.searchsorted(reached, p / 100)))]) for p in PERCENTILES]
    mean = float(np.average(data, weights=mass))
    return Distribution(
        count=round(float(mass.sum())),
        mean=mean,
        median=percentiles[0],
        std=float(np.sqrt(np.average((data - mean) ** 2, weights=mass))),
        smallest=float(data[0]),
        largest=float(data[-1]),
        p50=percentiles[0],
        p90=percentiles[1],
        p95=percentiles[2],
        p99=percentiles[3],
        intervals={},
    )


def resampled(values: Sequence[float], *, seed: int, resamples: int = RESAMPLES) -> dict[str, Values]:
    """For each of :data:`STATISTICS` its values over circular block resamples, each of shape (resamples,)."""
    data = np.asarray(values, np.float64)
    count = len(data)
    block = max(1, round(count ** (1 / 3)))
    blocks = -(-count // block)
    generator = np.random.default_rng([seed, 3])
    at_once = max(1, min(resamples, MOST_DRAWN_AT_ONCE // count))
    found: dict[str, list[Values]] = {name: [] for name in STATISTICS}
    done = 0
    while done < resamples:
        rows = min(at_once, resamples - done)
        starts = generator.integers(0, count, (rows, blocks, 1))
        drawn = data[((starts + np.arange(block)) % count).reshape(rows, -1)[:, :count]]
        for name, statistic in STATISTICS.items():
            found[name].append(statistic(drawn))
        done += rows
    return {name: np.concatenate(parts) for name, parts in found.items()}


def interval(values: Values) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _intervals(data: Values, seed: int) -> dict[str, tuple[float, float]]:
    return {name: interval(values) for name, values in resampled(data.tolist(), seed=seed).items()}


def latencies(records: Sequence[RequestRecord], measure: str, *, scheduled: bool = False) -> list[float]:
    """Seconds of ``ttft``, ``tpot`` or ``e2e`` of the answers that came whole, in the order in which they were due."""
    found = []
    for record in records:
        if record.succeeded:
            value = (
                record.tpot
                if measure == "tpot"
                else record.ttft(scheduled=scheduled)
                if measure == "ttft"
                else record.e2e(scheduled=scheduled)
            )
            if value is not None:
                found.append(value)
    return found
