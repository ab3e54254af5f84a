"""When requests are due: moments in seconds from the start of a stage, drawn before it begins.

In an open loop these moments do not depend on the server's answers, so a server that stalls cannot slow the load that
is meant to measure it. It knows times only.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from flyweight.errors import UsageError

Shape = Literal["poisson", "constant", "gamma", "ramp"]
MOST_ARRIVALS = 10_000_000


def arrival_times(
    shape: Shape,
    *,
    rate: float,
    requests: int | None,
    duration: float | None,
    generator: np.random.Generator,
    burstiness: float = 1.0,
    final_rate: float | None = None,
) -> list[float]:
    """The moments of a stage, increasing, by count or by duration, whichever ends it first.

    Args:
        shape: poisson (independent arrivals), constant (equal gaps), gamma (gaps of shape ``burstiness``: below 1
            burstier than Poisson, above 1 more even), ramp (Poisson whose rate goes linearly to ``final_rate``).
        rate: requests per second; of a ramp at its start (0 is allowed there).
        requests, duration: at least one of them.

    Raises:
        UsageError: more arrivals than ten million.
    """
    mean_rate = (rate + (final_rate or 0.0)) / 2 if shape == "ramp" else rate
    expected = requests if requests is not None else mean_rate * (duration or 0.0)
    if expected > MOST_ARRIVALS:
        raise UsageError(f"{expected:,.0f} requests are more than {MOST_ARRIVALS:,}; lower the rate or the duration")
    if shape == "ramp":
        return _ramp(rate, final_rate or 0.0, requests, duration, generator)
    count = requests if requests is not None else math.ceil(expected + 10 * math.sqrt(expected * 4) + 10)
    times: list[float] = []
    last = 0.0
    while len(times) < count:
        gaps = _gaps(shape, rate, burstiness, min(count - len(times), 65536), generator)
        moments = last + np.cumsum(gaps)
        last = float(moments[-1])
        times += moments.tolist()
        if duration is not None and last > duration:
            break
        if requests is None and len(times) >= count:  # an unlucky draw: the moments do not reach the end yet
            count += 1024
    return [one for one in times if duration is None or one <= duration][: requests or None]


def _gaps(
    shape: Shape, rate: float, burstiness: float, count: int, generator: np.random.Generator
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    if shape == "constant":
        return np.full(count, 1.0 / rate)
    if shape == "poisson":
        return generator.exponential(1.0 / rate, count)
    return generator.gamma(burstiness, 1.0 / (rate * burstiness), count)


def _ramp(
    low: float, high: float, requests: int | None, duration: float | None, generator: np.random.Generator
) -> list[float]:
    """Poisson arrivals of a rate that grows linearly: unit arrivals put through the inverse of the summed rate."""
    seconds = duration if duration is not None else 2 * (requests or 0) / (low + high)
    slope = (high - low) / seconds
    times: list[float] = []
    unit = 0.0
    total = (low + high) / 2 * seconds
    while True:
        unit += float(generator.exponential(1.0))
        if unit > total or (requests is not None and len(times) >= requests):
            return times
        times.append(_when(unit, low, slope))


def _when(area: float, low: float, slope: float) -> float:
    """The time until which a rate of ``low + slope * t`` has summed up to ``area``."""
    if abs(slope) < 1e-12:
        return area / low
    return (math.sqrt(max(0.0, low * low + 2 * slope * area)) - low) / slope


def coefficient_of_variation(times: Sequence[float]) -> float:
    """Standard deviation of the gaps over their mean: 0 for constant arrivals, about 1 for Poisson."""
    gaps = np.diff(np.asarray([0.0, *times]))
    return float(np.std(gaps) / np.mean(gaps)) if len(gaps) and np.mean(gaps) > 0 else 0.0
