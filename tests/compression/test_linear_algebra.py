"""The in-place factorization and what is built on it, against numpy's definitions."""

import numpy as np
import pytest

from flyweight.compression import linear_algebra as la


def positive_definite(n: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((2 * n + 3, n))
    return x.T @ x / n + 0.01 * np.eye(n)


def factored(matrix: np.ndarray) -> np.ndarray:
    """The factor alone, from an argument whose lower triangle is rubbish."""
    argument = np.triu(matrix) + np.tril(np.full_like(matrix, np.nan), -1)
    la.factor_backwards_in_place(argument, matrix.diagonal().copy())
    assert np.isnan(argument[np.tril_indices(len(matrix), -1)]).all(), "the lower triangle is the caller's"
    return np.triu(argument)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(la, "STRIP", 96)
    monkeypatch.setattr(la, "BLOCK", 32)


@pytest.mark.parametrize("n", [1, 5, 127, 128, 129, 300])
def test_the_factor_times_its_transpose_is_the_matrix(n):
    matrix = positive_definite(n)
    upper = factored(matrix)
    np.testing.assert_allclose(upper @ upper.T, matrix, rtol=1e-9, atol=1e-9)
    assert (upper.diagonal() > 0).all()


def test_its_inverse_is_the_cholesky_factor_of_the_inverse():
    matrix = positive_definite(200)
    np.testing.assert_allclose(
        np.linalg.inv(factored(matrix)), np.linalg.cholesky(np.linalg.inv(matrix)).T, rtol=1e-7, atol=1e-8
    )


@pytest.mark.usefixtures("small_blocks")
def test_several_strips():
    matrix = positive_definite(333)
    upper = factored(matrix)
    np.testing.assert_allclose(upper @ upper.T, matrix, rtol=1e-9, atol=1e-9)


def test_float32_stays_float32():
    matrix = positive_definite(200).astype(np.float32)
    upper = factored(matrix)
    assert upper.dtype == np.float32
    np.testing.assert_allclose(upper @ upper.T, matrix, atol=1e-4)


def test_the_diagonal_is_taken_from_the_argument():
    matrix = positive_definite(50)
    argument = matrix.copy()
    np.fill_diagonal(argument, np.nan)
    la.factor_backwards_in_place(argument, matrix.diagonal() + 1.0)
    upper = np.triu(argument)
    np.testing.assert_allclose(upper @ upper.T, matrix + np.eye(50), atol=1e-9)


def test_not_positive_definite_is_said():
    with pytest.raises(np.linalg.LinAlgError):
        la.factor_backwards_in_place(np.array([[1.0, 2.0], [2.0, 1.0]]), np.ones(2))


def test_torch_gives_the_same():
    torch = pytest.importorskip("torch")
    matrix = positive_definite(150)
    argument = torch.tensor(matrix)
    la.factor_backwards_in_place(argument, torch.tensor(matrix.diagonal().copy()))
    np.testing.assert_allclose(np.triu(argument.numpy()), factored(matrix), atol=1e-10)
    with pytest.raises(np.linalg.LinAlgError):
        la.factor_backwards_in_place(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.ones(2))


@pytest.mark.usefixtures("small_blocks")
def test_multiply_upper_reads_no_lower_triangle():
    matrix = positive_definite(200)
    rows = np.random.default_rng(1).standard_normal((7, 200))
    argument = np.triu(matrix) + np.tril(np.full_like(matrix, 1e9), -1)
    np.testing.assert_allclose(la.multiply_upper(rows, argument), rows @ np.triu(matrix), atol=1e-9)


@pytest.mark.usefixtures("small_blocks")
def test_solve_factored():
    matrix = positive_definite(200)
    rhs = np.random.default_rng(2).standard_normal((200, 9))
    solution = rhs.copy()
    la.solve_factored_in_place(factored(matrix), solution)
    np.testing.assert_allclose(matrix @ solution, rhs, atol=1e-8)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("source", ["upper", "lower"])
def test_mirror(source):
    matrix = positive_definite(200)
    half = np.triu(matrix) if source == "upper" else np.tril(matrix)
    la.mirror(half, source=source)
    np.testing.assert_array_equal(half, matrix)


@pytest.mark.usefixtures("small_blocks")
def test_permute_symmetric():
    matrix, order = positive_definite(200), np.random.default_rng(3).permutation(200)
    moved = matrix.copy()
    la.permute_symmetric(moved, order)
    np.testing.assert_array_equal(moved, matrix[order][:, order])
