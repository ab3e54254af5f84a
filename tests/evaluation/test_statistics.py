"""Intervals against closed forms, brute force and their own promise (coverage)."""

import math

import numpy as np
import pytest
from scipy import stats

from flyweight.evaluation.statistics import (
    Bootstrap,
    Units,
    choose_units,
    mcnemar,
    paired_difference,
    wilson,
)


def bootstrap(index: np.ndarray, **changes: object) -> Bootstrap:
    units = Units(index=index, count=int(index.max()) + 1, name="documents")
    return Bootstrap(units, **{"num_resamples": 1000, "seed": 0, "confidence": 0.95, **changes})  # type: ignore[arg-type]


def test_the_interval_of_a_mean_is_that_of_whole_documents_drawn_again() -> None:
    generator = np.random.default_rng(3)
    index = np.repeat(np.arange(30), generator.integers(1, 9, 30))
    values = generator.gamma(1, 1, len(index))
    found = bootstrap(index).mean(values)
    draws = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=1000)
    means = [np.concatenate([np.repeat(values[index == u], n) for u, n in enumerate(draw)]).mean() for draw in draws]
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(np.quantile(means, 0.025))
    assert found.high == pytest.approx(np.quantile(means, 0.975))
    assert found.num_samples == len(values)
    assert found.interval == "bootstrap over 30 documents, 1000 resamples, seed 0"


def test_nineteen_in_twenty_intervals_hold_the_truth_although_tokens_of_a_document_agree() -> None:
    generator = np.random.default_rng(5)
    index = np.repeat(np.arange(60), 10)
    covered = naive = 0
    for _ in range(400):
        values = np.repeat(generator.normal(0, 1, 60), 10) + generator.normal(0, 0.3, 600)
        found = bootstrap(index, num_resamples=300).mean(values)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0 <= found.high
        single = 1.96 * values.std() / math.sqrt(600)
        naive += abs(values.mean()) <= single
    assert 0.91 <= covered / 400 <= 0.98
    assert naive / 400 < 0.7, "the test must be able to tell: tokens drawn one by one would be far too sure"


def test_quantiles_are_weighted_by_how_often_a_document_was_drawn() -> None:
    generator = np.random.default_rng(4)
    index = np.repeat(np.arange(25), np.arange(2, 16).tolist() + [8] * 8 + [5, 6, 6])
    values = generator.exponential(1, len(index))
    assert len(values) == 200
    median, p99 = bootstrap(index, num_resamples=200).quantiles(values, (0.5, 0.99))
    draws = np.random.default_rng(0).multinomial(25, np.full(25, 1 / 25), size=200)
    medians = []
    for draw in draws:
        drawn = np.sort(np.concatenate([np.repeat(values[index == u], n) for u, n in enumerate(draw)]))
        medians.append(drawn[math.ceil(0.5 * len(drawn) - 1e-9) - 1])
    assert median.value == np.sort(values)[99]
    assert p99.value == np.sort(values)[197]
    assert median.low == pytest.approx(np.quantile(medians, 0.025))
    assert median.high == pytest.approx(np.quantile(medians, 0.975))


def test_differences_are_paired() -> None:
    generator = np.random.default_rng(6)
    index = np.repeat(np.arange(40), 5)
    first = np.repeat(generator.normal(3, 1, 40), 5)
    second = first + 0.01
    drawn = bootstrap(index)
    ratio = drawn.mean(second - first, transform=np.exp)
    assert ratio.low == pytest.approx(math.exp(0.01))
    assert ratio.high == pytest.approx(math.exp(0.01))
    difference = drawn.difference_of_exp_means(second, first)
    assert difference.value == pytest.approx(math.exp(second.mean()) - math.exp(first.mean()))
    alone = drawn.mean(first, transform=np.exp)
    assert alone.high is not None
    assert alone.low is not None
    assert difference.high is not None
    assert difference.low is not None
    assert difference.high - difference.low < 0.05 * (alone.high - alone.low)


def test_units_are_documents_if_there_are_enough_of_them() -> None:
    def units(documents: int, sequences: int, rows: int = 6000) -> Units:
        return choose_units(np.arange(rows) * documents // rows, np.arange(rows) * sequences // rows)

    assert (units(30, 60).name, units(30, 60).count) == ("documents", 30)
    assert (units(3, 60).name, units(3, 60).count) == ("windows", 60)
    assert (units(1, 2).name, units(1, 2).count) == ("blocks of 300 tokens", 20)
    many = units(5000, 5000)
    assert many.name == "blocks of 3 documents"
    assert many.count == 1667
    assert (np.diff(many.index) >= 0).all()


def test_an_agreement_of_one_has_wilsons_interval() -> None:
    found = bootstrap(np.repeat(np.arange(20), 5)).share(np.ones(100, bool))
    assert found.value == 1.0
    assert found.low == pytest.approx(1 / (1 + 1.959964**2 / 100), rel=1e-6)
    assert found.interval == "Wilson"


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (5, 5), (31, 40), (1, 1000)])
def test_wilson_is_scipys(successes: int, trials: int) -> None:
    found = wilson(successes, trials, confidence=0.9, sample="prompts")
    expected = stats.binomtest(successes, trials).proportion_ci(0.9, method="wilson")
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12))


@pytest.mark.parametrize(("broken", "repaired"), [(0, 0), (6, 0), (5, 1), (3, 3), (40, 71), (900, 800)])
def test_mcnemar_is_scipys_binomial_test(broken: int, repaired: int) -> None:
    expected = stats.binomtest(broken, broken + repaired).pvalue if broken + repaired else 1.0
    assert mcnemar(broken, repaired) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(5, 1) == pytest.approx(2 * (1 + 6) / 64)


def test_the_paired_difference_is_bonett_and_price() -> None:
    found = paired_difference(7, 2, 50, confidence=0.95)
    lost, gained = 8 / 52, 3 / 52
    half = 1.959963985 * math.sqrt((lost + gained - (gained - lost) ** 2) / 52)
    assert found.value == pytest.approx(-0.1)
    assert found.low == pytest.approx(gained - lost - half)
    assert found.high == pytest.approx(gained - lost + half)


def test_a_maximum_says_what_it_can() -> None:
    found = bootstrap(np.arange(300)).largest(np.arange(300.0))
    assert (found.value, found.low, found.high) == (299.0, None, None)
    assert "at most 0.01 of all tokens lie above it" in found.interval
