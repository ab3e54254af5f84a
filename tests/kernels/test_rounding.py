"""Rounding to codes is the same to the bit on every instruction set, in the twin and for every dtype of weights."""

import ml_dtypes
import numpy as np
import pytest

from flyweight import kernels
from flyweight.errors import KernelError
from flyweight.kernels import reference

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def weights(rng, shape, dtype):
    """Of many sizes, with groups of zeros, of tiny numbers, of one sign, and with numbers half-way between codes."""
    weight = rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 3, (shape[0], 1))
    weight[0] = 0
    weight[1] = 1e-9
    weight[2] = np.abs(weight[2])
    weight[3] = -np.abs(weight[3])
    weight[4] = np.arange(shape[1]) % 16 / 2 - 4
    return weight.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16], ids=str)
@pytest.mark.parametrize("scale_dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("bits", "width", "group_size"), [(2, 24, 12), (3, 43, 43), (4, 96, 32), (6, 128, 64), (6, 40, 8), (8, 66, 33)]
)
def test_codes_and_scales_are_the_twins(isa, rng, dtype, scale_dtype, symmetric, bits, width, group_size):
    weight = weights(rng, (9, width), dtype)
    settings = {"bits": bits, "group_size": group_size, "symmetric": symmetric, "scale_dtype": scale_dtype}
    rounded = kernels.round_weights(weight, **settings)
    codes, scales, zero_points = reference.round_weights(weight, **settings)
    np.testing.assert_array_equal(rounded.scales.view(np.uint8), scales.view(np.uint8))
    np.testing.assert_array_equal(rounded.codes, codes)
    if symmetric:
        assert rounded.zero_points is None
    else:
        np.testing.assert_array_equal(rounded.zero_points, zero_points)


def test_many_rows_are_cut_among_threads(rng):
    weight = rng.standard_normal((3000, 128)).astype(np.float32)
    settings = {"bits": 4, "group_size": 64, "symmetric": True, "scale_dtype": "bfloat16"}
    np.testing.assert_array_equal(
        kernels.round_weights(weight, **settings).codes, reference.round_weights(weight, **settings)[0]
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("symmetric", [True, False])
def test_numbers_that_are_not_finite_are_refused(isa, bad, symmetric):
    weight = np.ones((3, 40), np.float32)
    weight[1, 35] = bad
    with pytest.raises(KernelError, match="not finite"):
        kernels.round_weights(weight, bits=4, group_size=20, symmetric=symmetric, scale_dtype="float32")


def test_scales_that_float16_cannot_hold_are_refused():
    weight = np.full((1, 8), 1e30, np.float32)
    with pytest.raises(KernelError, match="too large for scale_dtype"):
        kernels.round_weights(weight, bits=8, group_size=8, symmetric=True, scale_dtype="float16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 9}, "bits=9 is not supported; choose 2 to 8"),
        ({"group_size": 3}, "group_size=3 does not divide in_features=8"),
        ({"group_size": 0}, "group_size=0 does not divide"),
        ({"scale_dtype": "int8"}, "scale_dtype"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    settings = {"bits": 4, "group_size": 4, "symmetric": True, "scale_dtype": "float32"}
    with pytest.raises(KernelError, match=message):
        kernels.round_weights(np.ones((2, 8), np.float32), **(settings | change))
