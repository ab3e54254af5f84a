import ml_dtypes
import numpy as np
import pytest

from flyweight import kernels
from flyweight.errors import KernelError
from flyweight.kernels import reference

ROWS = [1, 2, 7, 33, 128]
FEWEST_TILE_ROWS = 8  # from here on the tile registers of amx take over, and codes are rounded with their scales
SHAPES = [(172, 40), (192, 16), (64, 131), (509, 33)]  # in_features, out_features


def agree(actual, expected, x, weight, relative):
    """Errors are measured against what a sum of that many rounded products may reach: |x| |w| per output."""
    allowed = relative * (np.abs(x).astype(np.float64) @ np.abs(weight).astype(np.float64).T) + 1e-30
    worst = (np.abs(actual - expected) / allowed).max()
    assert worst <= 1, f"error {worst:.2f} times the bound"


def random_codes(rng, out_features, in_features, groups, bits, symmetric):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    codes = rng.integers(low, high + 1, (out_features, in_features), dtype=np.int8)
    codes[0, :2] = low, high
    scales = rng.uniform(0.001, 0.1, (out_features, groups)).astype(np.float32)
    zero_points = None if symmetric else rng.integers(low, high + 1, (out_features, groups), dtype=np.int8)
    return codes, scales, zero_points


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize(("in_features", "out_features"), SHAPES)
def test_plain_agrees_with_its_twin(isa, rng, dtype, compute, in_features, out_features):
    weight = rng.standard_normal((out_features, in_features)).astype(dtype)
    bias = rng.standard_normal(out_features).astype(np.float32)
    handle = kernels.prepare_plain(weight, compute=compute)
    twin = reference.prepare_plain(weight, compute=compute)
    for rows in ROWS:
        x = rng.standard_normal((rows, in_features)).astype(np.float32)
        actual = kernels.linear(x, handle, bias)
        agree(actual, reference.linear(x, twin, bias), np.abs(x) + 1, np.abs(weight.astype(np.float32)), 1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("compute", ["float32", "bfloat16", "int8", "int8_token"])
@pytest.mark.parametrize(
    ("in_features", "out_features", "group_size", "bits"),
    [
        (172, 40, 172, 4),
        (172, 40, 43, 8),
        (192, 16, 64, 4),
        (192, 131, 32, 8),
        (64, 33, 8, 3),
        (64, 20, 1, 5),
        (192, 33, 64, 6),
        (172, 18, 43, 6),
        (120, 40, 24, 5),
        (1018, 17, 509, 6),
        (144, 17, 24, 4),
        (576, 18, 576, 8),
        (1018, 18, 509, 4),
    ],
)
def test_codes_agree_with_their_twin(isa, rng, symmetric, compute, in_features, out_features, group_size, bits):
    groups = in_features // group_size
    codes, scales, zero_points = random_codes(rng, out_features, in_features, groups, bits, symmetric)
    settings = {"bits": bits, "group_size": group_size, "compute": compute}
    handle = kernels.prepare_int_group(codes, scales, zero_points, **settings)
    twin = reference.prepare_int_group(codes, scales, zero_points, **settings)
    # With a zero point a kernel may take zero * sum(x) away at the end: both parts belong to the bound.
    size = np.abs(codes.astype(np.float32)) + (0 if symmetric else 2 ** (bits - 1))
    for rows in ROWS:
        x = rng.standard_normal((rows, in_features)).astype(np.float32)
        expected = reference.linear(x, twin, rounded_weights=isa == "amx" and rows >= FEWEST_TILE_ROWS)
        agree(kernels.linear(x, handle), expected, x, size * np.repeat(scales, group_size, 1), 1e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("compute", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("bits", [4, 6, 8])
def test_scales_of_16_bits_give_what_they_give_widened(isa, rng, dtype, compute, bits):
    codes, scales, zero_points = random_codes(rng, 33, 192, 3, bits, symmetric=False)
    scales = scales.astype(dtype)
    settings = {"bits": bits, "group_size": 64, "compute": compute}
    narrow = kernels.prepare_int_group(codes, scales, zero_points, **settings)
    wide = kernels.prepare_int_group(codes, scales.astype(np.float32), zero_points, **settings)
    assert wide.nbytes - narrow.nbytes == 48 * 3 * 2
    for rows in (1, 7, 60):
        x = rng.standard_normal((rows, 192)).astype(np.float32)
        np.testing.assert_array_equal(kernels.linear(x, narrow), kernels.linear(x, wide))


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("extreme", ["low", "high"])
def test_int8_sums_are_exact_at_the_extremes(isa, bits, extreme):
    """Scales of one and whole inputs up to 127: every result is an integer, and saturation would show."""
    code = -(2 ** (bits - 1)) if extreme == "low" else 2 ** (bits - 1) - 1
    codes = np.full((17, 512), code, np.int8)
    handle = kernels.prepare_int_group(
        codes, np.ones((17, 2), np.float32), None, bits=bits, group_size=256, compute="int8"
    )
    for rows in (1, 6, 13):
        x = np.where(np.arange(512) % 2, 127, 126).astype(np.float32) * np.ones((rows, 1), np.float32)
        x[rows // 2] *= -1
        np.testing.assert_array_equal(kernels.linear(x, handle), x @ codes.T.astype(np.float32))


def test_int8_quantizes_as_its_twin_says(isa, rng):
    """One-hot weights show the quantized inputs themselves."""
    x = rng.standard_normal((64, 192)).astype(np.float32)
    x[0] *= (10.0 ** rng.integers(-3, 3, 192)).astype(np.float32)
    x[1, :64] = 0
    x[2, 64:128] = 1e-38
    x[3, :16] = (np.arange(16) + 0.5) / 127 * np.abs(x[3, :64]).max()  # half-way
    codes = np.eye(192, dtype=np.int8)
    handle = kernels.prepare_int_group(
        codes, np.ones((192, 3), np.float32), None, bits=8, group_size=64, compute="int8"
    )
    quantized, scales = reference.quantize_activations(x, 64)
    np.testing.assert_array_equal(kernels.linear(x, handle), quantized * scales)


@pytest.mark.parametrize("compute", ["float32", "bfloat16", "int8", "int8_token"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_inputs_that_are_not_numbers_are_not_hidden(isa, compute, bad):
    codes = np.ones((20, 64), np.int8)
    handle = kernels.prepare_int_group(
        codes, np.ones((20, 2), np.float32), None, bits=4, group_size=32, compute=compute
    )
    x = np.ones((2, 64), np.float32)
    x[1, 40] = bad
    y = kernels.linear(x, handle)
    assert np.isfinite(y[0]).all()
    assert not np.isfinite(y[1]).any()


def test_rows_may_lie_apart(isa, rng):
    weight = rng.standard_normal((40, 64)).astype(np.float32)
    handle = kernels.prepare_plain(weight, compute="float32")
    wide = rng.standard_normal((9, 200)).astype(np.float32)
    out = np.zeros((9, 100), np.float32)
    returned = kernels.linear(wide[:, 70:134], handle, out=out[:, 30:70])
    assert np.shares_memory(returned, out)
    np.testing.assert_array_equal(out[:, 30:70], kernels.linear(np.ascontiguousarray(wide[:, 70:134]), handle))
    assert not out[:, :30].any()
    assert not out[:, 70:].any()


def test_threads_change_nothing(rng):
    weight = rng.standard_normal((700, 320)).astype(np.float32)
    handle = kernels.prepare_plain(weight, compute="float32")
    x = rng.standard_normal((97, 320)).astype(np.float32)
    with kernels.use_threads(1):
        alone = kernels.linear(x, handle)
    with kernels.use_threads(3):
        np.testing.assert_array_equal(kernels.linear(x, handle), alone)


def test_no_rows(isa):
    handle = kernels.prepare_plain(np.ones((3, 4), np.float32), compute="float32")
    assert kernels.linear(np.ones((0, 4), np.float32), handle).shape == (0, 3)


def test_a_handle_says_what_it_holds():
    codes, scales = np.zeros((48, 64), np.int8), np.ones((48, 2), np.float32)
    four = kernels.prepare_int_group(codes, scales, None, bits=4, group_size=32, compute="int8")
    assert (four.in_features, four.out_features, four.compute, four.storage) == (64, 48, "int8", "uint4")
    assert four.nbytes == 48 * 64 // 2 + 48 * 2 * 4
    six = kernels.prepare_int_group(codes, scales.astype(np.float16), None, bits=5, group_size=32, compute="int8")
    assert (six.storage, six.nbytes) == ("uint6", 48 * 64 * 3 // 4 + 48 * 2 * 2)
    plain = kernels.prepare_plain(np.zeros((48, 64), np.float16), compute="float32")
    assert (plain.storage, plain.nbytes) == ("float16", 48 * 64 * 2)


def test_activation_groups():
    cases = {
        (64, 64): 64,
        (512, 256): 256,
        (4096, 4096): 128,
        (576, 576): 144,
        (1018, 509): 128,
        (48, 16): 48,
        (64, 1): 64,
        (4096, 24): 120,
    }
    assert {case: kernels.activation_group(*case) for case in cases} == cases


ONES = np.ones((3, 4), np.float32)
CODES = np.ones((3, 4), np.int8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: kernels.prepare_plain(ONES.astype(np.float64), compute="float32"),
            r"weight has dtype float64; float32, float16 or bfloat16",
        ),
        (lambda: kernels.prepare_plain(ONES[0], compute="float32"), r"weight has shape \(4,\); \(any, any\) is needed"),
        (
            lambda: kernels.prepare_plain(ONES.T, compute="float32"),
            r"weight is not contiguous .* numpy.ascontiguousarray\(weight\)",
        ),
        (lambda: kernels.prepare_plain(ONES, compute="int8"), r"compute='int8' is unknown; choose float32, bfloat16"),
        (lambda: kernels.prepare_plain(ONES[:0], compute="float32"), r"neither length may be 0"),
        (
            lambda: kernels.prepare_int_group(CODES, ONES, None, bits=9, group_size=4, compute="int8"),
            r"bits=9 is not supported; choose 2 to 8",
        ),
        (
            lambda: kernels.prepare_int_group(CODES, ONES, None, bits=4, group_size=3, compute="int8"),
            r"group_size=3 does not divide in_features=4",
        ),
        (
            lambda: kernels.prepare_int_group(CODES, ONES, None, bits=4, group_size=2, compute="int8"),
            r"scales has shape \(3, 4\); \(3, 2\) is needed",
        ),
        (
            lambda: kernels.prepare_int_group(CODES * 8, ONES, None, bits=4, group_size=1, compute="int8"),
            r"codes lie in \[8, 8\]; with bits=4 they must lie in \[-8, 7\]",
        ),
        (
            lambda: kernels.linear(ONES, kernels.prepare_plain(ONES, compute="float32"), np.ones(4, np.float32)),
            r"bias has shape \(4,\); \(3\) is needed",
        ),
        (
            lambda: kernels.linear(ONES[:, :3], kernels.prepare_plain(ONES, compute="float32")),
            r"x has shape \(3, 3\); \(any, 4\) is needed",
        ),
        (
            lambda: kernels.linear(np.asfortranarray(ONES), kernels.prepare_plain(ONES, compute="float32")),
            r"each row must be contiguous",
        ),
        (
            lambda: kernels.linear([[1.0]], kernels.prepare_plain(ONES, compute="float32")),
            r"x is a list; a numpy array of float32",
        ),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(KernelError, match=message):
        call()
