"""plain: what goes in comes out, and the kernels compute with it."""

import ml_dtypes
import numpy as np
import pytest

from flyweight import kernels
from flyweight.errors import UnsupportedModelError
from flyweight.formats import Plain, stored_plain


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_prepared_weight_computes_like_the_decoded(dtype, compute):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((33, 64)).astype(dtype)
    stored = stored_plain(weight)
    np.testing.assert_array_equal(stored.decode(), weight.astype(np.float32))
    x = rng.standard_normal((3, 64)).astype(np.float32)
    exact = x.astype(np.float64) @ weight.astype(np.float64).T
    tolerance = (1e-5 if compute == "float32" else 1e-2) * abs(exact).max()
    assert abs(kernels.linear(x, stored.prepare(compute)) - exact).max() < tolerance


def test_sizes_and_names():
    stored = Plain(dtype="bfloat16").encode(np.ones((4, 6), np.float32))
    assert (stored.nbytes, stored.bits_per_weight, stored.format.name) == (48, 16.0, "bfloat16")


def test_what_it_cannot_do_is_named():
    with pytest.raises(UnsupportedModelError, match="dtype int32 is not a weight dtype; supported: float32, float16"):
        stored_plain(np.ones((2, 2), np.int32))
    with pytest.raises(UnsupportedModelError, match="compute='int8' is not available for weights stored as float32"):
        stored_plain(np.ones((2, 2), np.float32)).prepare("int8")
