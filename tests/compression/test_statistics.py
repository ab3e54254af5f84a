"""X^T X of the inputs: what is accumulated, and how it is factored."""

import ml_dtypes
import numpy as np
import pytest

from flyweight.compression import statistics as module
from flyweight.compression.statistics import InputStatistics


def inputs(tokens: int = 300, features: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((tokens, features)) @ rng.standard_normal((features, features))).astype(np.float32)


def product(factor: module.Factor) -> np.ndarray:
    upper = np.triu(factor.upper).astype(np.float64)
    return upper @ upper.T


@pytest.mark.parametrize("like", [None, np.empty(0, np.float32)], ids=["kernel", "array library"])
def test_pieces_add_up_to_the_whole(monkeypatch, like):
    monkeypatch.setattr(module, "STRIP", 16)
    x = inputs()
    statistics = InputStatistics(40, like=like)
    for start in range(0, 300, 70):
        statistics.add(x[start : start + 70])
    assert statistics.tokens == 300
    hessian = x.astype(np.float64).T @ x
    np.testing.assert_allclose(statistics.diagonal, hessian.diagonal(), rtol=1e-5)
    ridge = 0.01 * hessian.diagonal().mean()
    np.testing.assert_allclose(product(statistics.factor(0.01)), hessian + ridge * np.eye(40), rtol=1e-3, atol=1e-1)


def test_factor_in_another_order_and_back():
    x, order = inputs(), np.random.default_rng(1).permutation(40)
    statistics = InputStatistics(40)
    statistics.add(x)
    hessian = x.astype(np.float64).T @ x
    hessian += 0.1 * hessian.diagonal().mean() * np.eye(40)
    np.testing.assert_allclose(product(statistics.factor(0.1, order)), hessian[order][:, order], rtol=1e-3, atol=1e-1)
    np.testing.assert_allclose(product(statistics.factor(0.1)), hessian, rtol=1e-3, atol=1e-1)
    assert statistics.factor(0.1) is statistics.factor(0.1)


def test_damping_is_raised_until_it_suffices():
    statistics = InputStatistics(64)
    # Two inputs so alike that in float32 their difference is lost: not positive definite with next to no damping.
    x = inputs(10, 64) * np.float32(100.0)
    statistics.add(x)
    statistics.add(np.repeat(x[:, :1], 64, axis=1) * np.float32(1e3))
    factor = statistics.factor(1e-12)
    assert factor.raised
    assert factor.damping >= 1e-4
    assert np.isfinite(np.triu(factor.upper)).all()


def test_damping_that_suffices_is_kept():
    statistics = InputStatistics(40)
    statistics.add(inputs())
    factor = statistics.factor(0.01)
    assert not factor.raised
    assert factor.damping == 0.01


def test_dead_inputs_are_named_and_do_not_stop_the_factorization():
    x = inputs()
    x[:, [3, 17]] = 0
    statistics = InputStatistics(40)
    statistics.add(x)
    assert np.flatnonzero(statistics.dead).tolist() == [3, 17]
    assert np.isfinite(np.triu(statistics.factor(0.01).upper)).all()


def test_inputs_that_are_not_finite_are_an_error():
    x = inputs()
    x[5, 5] = np.inf
    statistics = InputStatistics(40)
    with np.errstate(all="ignore"):
        statistics.add(x)
        with pytest.raises(np.linalg.LinAlgError):
            statistics.factor(0.01)


def test_bfloat16_statistics_are_those_of_rounded_inputs():
    x = np.random.default_rng(5).standard_normal((70, 40)).astype(np.float32)
    rounded, exact = InputStatistics(40, compute="bfloat16"), InputStatistics(40)
    rounded.add(x[:50])
    rounded.add(x[50:])
    exact.add(x.astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_allclose(rounded.diagonal, exact.diagonal, rtol=1e-5)
    factors = [np.triu(np.asarray(one.factor(0.01).upper)) for one in (rounded, exact)]
    np.testing.assert_allclose(factors[0], factors[1], atol=1e-4)
