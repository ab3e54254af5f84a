"""Codes times int8 inputs are whole numbers: with scales of one every result is exact, whatever the rows and passes."""

import numpy as np
import pytest

from flyweight import kernels

ROWS = [1, 2, 3, 5, 6, 7, 12, 13, 49, 200]  # every height of a tile, codes spread out or not, more than one task's rows
SHAPES = [  # in_features, out_features, group_size
    (40, 33, 40),
    (120, 16, 24),
    (512, 17, 256),
    (2112, 48, 64),
]


def whole_inputs(rng, rows, in_features, group_size):
    """Numbers up to 127 in size, 127 in every group: they quantize to themselves."""
    x = rng.integers(-127, 128, (rows, in_features)).astype(np.float32)
    x[:, ::group_size] = 127
    return x


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("in_features", "out_features", "group_size"), SHAPES)
def test_every_sum_is_exact(isa, rng, bits, symmetric, in_features, out_features, group_size):
    high = 2 ** (bits - 1)
    codes = rng.integers(-high, high, (out_features, in_features), dtype=np.int8)
    shape = (out_features, in_features // group_size)
    zeros = None if symmetric else rng.integers(-high, high, shape, dtype=np.int8)
    steps = codes.astype(np.int64) - (0 if symmetric else np.repeat(zeros.astype(np.int64), group_size, 1))
    handle = kernels.prepare_int_group(
        codes, np.ones(shape, np.float32), zeros, bits=bits, group_size=group_size, compute="int8"
    )
    for rows in ROWS if isa != "generic" else ROWS[:5]:
        x = whole_inputs(rng, rows, in_features, group_size)
        expected = x.astype(np.int64) @ steps.T
        np.testing.assert_array_equal(kernels.linear(x, handle), expected.astype(np.float32))


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("code", "bits"), [(-8, 4), (7, 4), (-32, 6), (31, 6), (-128, 8), (127, 8)])
def test_the_largest_sums_do_not_overflow(isa, sign, code, bits):
    codes = np.full((16, 256), code, np.int8)
    handle = kernels.prepare_int_group(
        codes, np.ones((16, 1), np.float32), None, bits=bits, group_size=256, compute="int8"
    )
    for rows in (1, 6, 20):
        x = np.full((rows, 256), sign * 127, np.float32)
        np.testing.assert_array_equal(
            kernels.linear(x, handle), np.full((rows, 16), sign * 127 * code * 256, np.float32)
        )
