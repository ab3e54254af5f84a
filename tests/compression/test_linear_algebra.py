"""The in-place factorization against numpy's three-step definition."""

import numpy as np
import pytest

from flyweight.compression.linear_algebra import inverse_cholesky_in_place


def positive_definite(n: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((2 * n + 3, n))
    return x.T @ x / n + 0.01 * np.eye(n)


@pytest.mark.parametrize("n", [1, 5, 127, 128, 129, 300])
def test_equals_cholesky_of_inverse(n):
    hessian = positive_definite(n)
    expected = np.linalg.cholesky(np.linalg.inv(hessian)).T
    result = inverse_cholesky_in_place(hessian)
    assert result is hessian
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-9 * abs(expected).max())
    assert not np.tril(result, -1).any()


def test_several_strips(monkeypatch):
    monkeypatch.setattr("flyweight.compression.linear_algebra.STRIP", 96)
    monkeypatch.setattr("flyweight.compression.linear_algebra.BLOCK", 32)
    hessian = positive_definite(333)
    expected = np.linalg.cholesky(np.linalg.inv(hessian)).T
    np.testing.assert_allclose(inverse_cholesky_in_place(hessian), expected, rtol=1e-8, atol=1e-10)


def test_float32_stays_float32():
    result = inverse_cholesky_in_place(positive_definite(200).astype(np.float32))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.linalg.cholesky(np.linalg.inv(positive_definite(200))).T, atol=2e-3)


def test_only_the_upper_triangle_is_read():
    hessian = positive_definite(150)
    expected = inverse_cholesky_in_place(hessian.copy())
    hessian[np.tril_indices(150, -1)] = np.nan
    np.testing.assert_array_equal(inverse_cholesky_in_place(hessian), expected)


def test_not_positive_definite_is_said():
    with pytest.raises(np.linalg.LinAlgError):
        inverse_cholesky_in_place(np.array([[1.0, 2.0], [2.0, 1.0]]))
