"""The tile registers of AMX: every height, every torn edge, and in int8 the very bits of the vector kernels."""

import ml_dtypes
import numpy as np
import pytest

from flyweight import kernels
from flyweight.kernels import reference

pytestmark = pytest.mark.skipif(
    "amx" not in kernels.available_isas(), reason="this CPU has no AMX, or it is not allowed"
)

ROWS = [8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 70, 520]
SHAPES = [  # in_features, out_features, group_size
    (31, 16, 31),
    (64, 33, 32),
    (172, 40, 43),
    (144, 17, 24),
    (120, 31, 120),
    (1018, 18, 509),
    (768, 160, 128),
    (2112, 48, 64),
]


def on(isa, x, handle, bias):
    with kernels.use_isa(isa):
        return kernels.linear(x, handle, bias)


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("compute", ["int8", "int8_token"])
@pytest.mark.parametrize(("in_features", "out_features", "group_size"), SHAPES)
def test_int8_gives_the_bits_of_the_vector_kernels(
    rng, bits, symmetric, compute, in_features, out_features, group_size
):
    high = 2 ** (bits - 1)
    codes = rng.integers(-high, high, (out_features, in_features), dtype=np.int8)
    scales = rng.uniform(0.001, 0.1, (out_features, in_features // group_size)).astype(np.float32)
    zero_points = None if symmetric else rng.integers(-high, high, scales.shape, dtype=np.int8)
    handle = kernels.prepare_int_group(codes, scales, zero_points, bits=bits, group_size=group_size, compute=compute)
    bias = rng.standard_normal(out_features).astype(np.float32)
    for rows in ROWS:
        x = rng.standard_normal((rows, in_features)).astype(np.float32)
        np.testing.assert_array_equal(on("amx", x, handle, bias), on("avx512", x, handle, bias))


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize(("in_features", "out_features", "group_size"), SHAPES)
def test_bfloat16_agrees_with_its_twin_at_every_height(rng, bits, in_features, out_features, group_size):
    weight = rng.standard_normal((out_features, in_features)).astype(ml_dtypes.bfloat16)
    codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (out_features, in_features), dtype=np.int8)
    scales = rng.uniform(0.001, 0.1, (out_features, in_features // group_size)).astype(np.float32)
    zero_points = rng.integers(-8, 8, scales.shape, dtype=np.int8)
    settings = {"bits": bits, "group_size": group_size, "compute": "bfloat16"}
    cases = [
        (
            kernels.prepare_plain(weight, compute="bfloat16"),
            reference.prepare_plain(weight, compute="bfloat16"),
            np.abs(weight.astype(np.float64)),
        ),
        (
            kernels.prepare_int_group(codes, scales, zero_points, **settings),
            reference.prepare_int_group(codes, scales, zero_points, **settings),
            np.abs(codes - zero_points.repeat(group_size, 1).astype(np.float64)) * scales.repeat(group_size, 1),
        ),
    ]
    bias = rng.standard_normal(out_features).astype(np.float32)
    for rows in ROWS:
        x = rng.standard_normal((rows, in_features)).astype(np.float32)
        for handle, twin, size in cases:
            expected = reference.linear(x, twin, bias, rounded_weights=True)
            allowed = 1e-6 * (np.abs(x).astype(np.float64) @ size.T + np.abs(bias))
            assert (np.abs(on("amx", x, handle, bias) - expected) <= allowed).all()


def test_tiles_leave_what_surrounds_a_result_alone(rng):
    handle = kernels.prepare_plain(rng.standard_normal((40, 64)).astype(np.float32), compute="bfloat16")
    x = rng.standard_normal((50, 200)).astype(np.float32)
    out = np.full((60, 100), 7, np.float32)
    with kernels.use_isa("amx"):
        kernels.linear(x[:, 70:134], handle, out=out[5:55, 30:70])
        alone = kernels.linear(np.ascontiguousarray(x[:, 70:134]), handle)
    np.testing.assert_array_equal(out[5:55, 30:70], alone)
    out[5:55, 30:70] = 7
    assert (out == 7).all()
