import ml_dtypes
import numpy as np
import pytest

from flyweight import kernels
from flyweight.errors import KernelError
from flyweight.kernels import reference


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize(("tokens", "width"), [(1, 1), (5, 16), (31, 40), (33, 32), (70, 131), (600, 65), (64, 700)])
def test_agrees_with_its_twin(isa, rng, compute, tokens, width):
    x = rng.standard_normal((tokens, width)).astype(np.float32)
    actual = rng.standard_normal((width, width)).astype(np.float32)
    expected = actual.astype(np.float64)
    kernels.gram(x, actual, compute=compute)
    reference.gram(x, expected, compute=compute)
    bound = 1e-6 * (np.abs(x).T.astype(np.float64) @ np.abs(x) + np.abs(expected)) + 1e-6
    upper = np.triu_indices(width)
    assert (np.abs(actual - expected) <= bound)[upper].all()


def test_bfloat16_sees_rounded_inputs(isa):
    x = np.full((4, 3), 1 + 2**-9, np.float32)
    sums = np.zeros((3, 3), np.float32)
    kernels.gram(x, sums, compute="bfloat16")
    assert sums[0, 2] == 4 * float(ml_dtypes.bfloat16(x[0, 0])) ** 2


def test_threads_change_nothing(isa, rng):
    x = rng.standard_normal((300, 200)).astype(np.float32)
    results = []
    for threads in (1, 2):
        sums = np.zeros((200, 200), np.float32)
        with kernels.use_threads(threads):
            kernels.gram(x, sums, compute="bfloat16")
        results.append(np.triu(sums))
    np.testing.assert_array_equal(*results)


def test_rows_may_lie_apart(isa, rng):
    wide = rng.standard_normal((50, 100)).astype(np.float32)
    apart, together = np.zeros((40, 40), np.float32), np.zeros((40, 40), np.float32)
    kernels.gram(wide[:, 30:70], apart, compute="bfloat16")
    kernels.gram(np.ascontiguousarray(wide[:, 30:70]), together, compute="bfloat16")
    np.testing.assert_array_equal(np.triu(apart), np.triu(together))


def test_wrong_sums_are_refused():
    with pytest.raises(KernelError, match=r"sums has shape \(3, 3\); \(4, 4\) is needed"):
        kernels.gram(np.ones((2, 4), np.float32), np.ones((3, 3), np.float32), compute="float32")
