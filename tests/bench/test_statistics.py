"""Medians, paired ratios, and the coverage of intervals by order statistics."""

import numpy as np
import pytest
from scipy import stats

from flyweight.bench.statistics import median_interval, paired_ratio, summarize


def test_summary_of_an_even_number_of_values() -> None:
    found = summarize([4.0, 1.0, 2.0, 10.0])
    assert (found.median, found.smallest, found.largest, found.count) == (3.0, 1.0, 10.0, 4)


def test_ratio_pairs_neighbours_and_takes_the_median_of_ratios() -> None:
    # The machine halves its speed in the second round; the pairs do not see it.
    found = paired_ratio([10.0, 5.0, 12.0], [5.0, 2.5, 4.0])
    assert (found.median, found.low, found.high, found.num_pairs) == (2.0, 2.0, 3.0, 3)
    assert found.coverage == 0.75


def test_one_pair_has_no_coverage() -> None:
    found = paired_ratio([3.0], [2.0])
    assert (found.median, found.low, found.high, found.coverage) == (1.5, 1.5, 1.5, 0.0)


@pytest.mark.parametrize("count", [2, 5, 6, 8, 9, 20, 101])
def test_coverage_is_the_binomial_probability(count: int) -> None:
    place, coverage = median_interval(count, 0.95)
    # The median lies outside when fewer than place + 1 of the values fall on one of its sides.
    assert coverage == pytest.approx(1 - 2 * stats.binom.cdf(place, count, 0.5))
    if place:
        assert coverage >= 0.95
    narrower = 1 - 2 * stats.binom.cdf(place + 1, count, 0.5)
    assert narrower < 0.95


def test_the_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    place, coverage = median_interval(9, 0.95)
    draws = np.sort(generator.standard_normal((4000, 9)), axis=1)
    inside = ((draws[:, place] <= 0) & (draws[:, -1 - place] >= 0)).mean()
    assert inside == pytest.approx(coverage, abs=0.015)
