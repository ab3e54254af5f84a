"""Figures with intervals: bootstrap over whole documents, Wilson for shares, exact McNemar for paired answers.

Tokens of one document depend on each other, so tokens are never resampled one by one: a resample draws whole
units (documents, windows or blocks). All statistics of one evaluation use the same resamples, which makes
differences and ratios of two models on the same tokens paired.

This module knows numbers only; it does not know what was measured.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

MAX_UNITS = 2000
QUANTILE_WORK = 50_000_000  # rows x resamples spent on the interval of a quantile


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured number.

    ``low`` and ``high`` bound the interval at ``confidence`` (None where no interval exists; ``interval`` then says
    what can be stated instead). ``num_samples`` counts ``sample`` (tokens, prompts), ``interval`` names the method.
    """

    value: float
    low: float | None
    high: float | None
    confidence: float
    num_samples: int
    sample: str
    interval: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Units:
    """What a bootstrap draws: ``index`` int (rows,) gives each row's unit, 0 to ``count`` - 1, non-decreasing."""

    index: Array
    count: int
    name: str


def choose_units(documents: Array, sequences: Array, *, wanted: int = 20) -> Units:
    """Documents if there are at least ``wanted``, else the scored sequences, else ``wanted`` blocks of tokens.

    Args:
        documents, sequences: int (rows,), non-decreasing: the document and the scored sequence of every row.
    """
    for owners, name in ((documents, "documents"), (sequences, "windows")):
        distinct, index = np.unique(owners, return_inverse=True)
        if len(distinct) < wanted:
            continue
        if len(distinct) <= MAX_UNITS:
            return Units(index=index, count=len(distinct), name=name)
        per_block = -(-len(distinct) // MAX_UNITS)
        index = index // per_block
        return Units(index=index, count=int(index[-1]) + 1, name=f"blocks of {per_block} {name}")
    rows = len(documents)
    length = max(1, rows // wanted)
    index = np.minimum(np.arange(rows) // length, max(0, rows // length - 1))
    return Units(index=index, count=int(index[-1]) + 1, name=f"blocks of {length} tokens")


class Bootstrap:
    """Percentile intervals from ``num_resamples`` seeded draws of whole units, the same draws for every statistic."""

    def __init__(self, units: Units, *, num_resamples: int, seed: int, confidence: float) -> None:
        self.units = units
        self.confidence = confidence
        self.num_resamples = num_resamples
        self._method = f"bootstrap over {units.count} {units.name}, {num_resamples} resamples, seed {seed}"
        generator = np.random.default_rng(seed)
        drawn = generator.multinomial(units.count, np.full(units.count, 1 / units.count), size=num_resamples)
        self._counts: Array = drawn.astype(np.float64)  # (resamples, units): how often each unit was drawn

    def mean(
        self, values: Array, *, sample: str = "tokens", transform: Callable[[Array], Array] = np.asarray
    ) -> Figure:
        """``transform`` of the mean over rows, such as ``np.exp`` of the mean negative log-likelihood.

        Args:
            values: float (rows,).
            transform: an elementwise function of the means.
        """
        sums = np.bincount(self.units.index, weights=values, minlength=self.units.count)
        sizes = np.bincount(self.units.index, minlength=self.units.count)
        resampled = transform((self._counts @ sums) / (self._counts @ sizes))
        return self._figure(float(transform(np.array(values.mean()))), resampled, len(values), sample)

    def ratio(
        self, totals: Array, weights: Array, *, num_samples: int, sample: str, transform: Callable[[Array], Array]
    ) -> Figure:
        """``transform(sum of totals / sum of weights)`` where both are given per unit: float (units,)."""
        resampled = transform((self._counts @ totals) / (self._counts @ weights))
        return self._figure(float(transform(np.array(totals.sum() / weights.sum()))), resampled, num_samples, sample)

    def difference_of_exp_means(self, first: Array, second: Array, *, sample: str = "tokens") -> Figure:
        """``exp(mean of first) - exp(mean of second)`` over the same rows: a paired difference of perplexities."""
        sizes = self._counts @ np.bincount(self.units.index, minlength=self.units.count)
        with np.errstate(over="ignore"):
            ends = [
                np.exp(self._counts @ np.bincount(self.units.index, weights=values, minlength=self.units.count) / sizes)
                for values in (first, second)
            ]
            value = float(np.exp(first.mean()) - np.exp(second.mean()))
        return self._figure(value, ends[0] - ends[1], len(first), sample)

    def share(self, hits: Array, *, sample: str = "tokens") -> Figure:
        """The share of true rows. Resampling cannot move a share of 0 or 1, so there the interval is Wilson's."""
        if hits.all() or not hits.any():
            return wilson(int(hits.sum()), len(hits), confidence=self.confidence, sample=sample)
        return self.mean(hits.astype(np.float64), sample=sample)

    def quantiles(self, values: Array, levels: tuple[float, ...], *, sample: str = "tokens") -> tuple[Figure, ...]:
        """Quantiles over rows (the smallest value with at least that share of rows at or below it)."""
        order = np.argsort(values, kind="stable")
        ordered, owners = values[order], self.units.index[order]
        shares = np.asarray(levels)
        num_resamples = min(self.num_resamples, max(200, QUANTILE_WORK // max(1, len(values))))
        found = np.empty((num_resamples, len(levels)))
        for row in range(num_resamples):
            cumulative = np.cumsum(self._counts[row][owners])
            found[row] = ordered[np.searchsorted(cumulative, shares * cumulative[-1] - 1e-9)]
        places = np.maximum(0, np.ceil(shares * len(values) - 1e-9).astype(int) - 1)
        return tuple(
            self._figure(float(ordered[place]), found[:, column], len(values), sample)
            for column, place in enumerate(places)
        )

    def largest(self, values: Array, *, sample: str = "tokens") -> Figure:
        """The maximum. It has no interval; what holds at 95 % is the rule of three for the share above it."""
        count = len(values)
        above = f"at most {3 / count:.2g} of all {sample} lie above it (95 %, rule of three)"
        return Figure(
            value=float(values.max()),
            low=None,
            high=None,
            confidence=self.confidence,
            num_samples=count,
            sample=sample,
            interval=f"a maximum has no interval; {above}",
        )

    def _figure(self, value: float, resampled: Array, num_samples: int, sample: str) -> Figure:
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(resampled, [tail, 1 - tail])
        return Figure(
            value=value,
            low=float(low),
            high=float(high),
            confidence=self.confidence,
            num_samples=num_samples,
            sample=sample,
            interval=self._method,
        )


def normal_quantile(confidence: float) -> float:
    """How many standard deviations hold the middle ``confidence`` of a normal distribution: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(successes: int, trials: int, *, confidence: float, sample: str) -> Figure:
    """A share with Wilson's score interval (Wilson 1927)."""
    z2 = normal_quantile(confidence) ** 2
    share = successes / trials
    centre = share + z2 / (2 * trials)
    spread = math.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2)))
    return Figure(
        value=share,
        # The ends of shares 0 and 1 are exact; rounding must not push them past the share.
        low=0.0 if successes == 0 else (centre - spread) / (1 + z2 / trials),
        high=1.0 if successes == trials else (centre + spread) / (1 + z2 / trials),
        confidence=confidence,
        num_samples=trials,
        sample=sample,
        interval="Wilson",
    )


def mcnemar(broken: int, repaired: int) -> float:
    """Two-sided p-value of McNemar's exact test: are ``broken`` and ``repaired`` answers equally likely?"""
    flips = broken + repaired
    tail = sum(math.comb(flips, k) for k in range(min(broken, repaired) + 1))
    return min(1.0, 2 * tail / (1 << flips))


def paired_difference(broken: int, repaired: int, pairs: int, *, confidence: float) -> Figure:
    """Change of a share between paired answers, with the adjusted Wald interval of Bonett and Price (2012)."""
    lost, gained, adjusted = (broken + 1) / (pairs + 2), (repaired + 1) / (pairs + 2), pairs + 2
    centre = gained - lost
    half = normal_quantile(confidence) * math.sqrt((gained + lost - centre**2) / adjusted)
    return Figure(
        value=(repaired - broken) / pairs,
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
        confidence=confidence,
        num_samples=pairs,
        sample="prompts",
        interval="Bonett-Price, paired",
    )
