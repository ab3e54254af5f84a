"""int_group: the rules of the codes, exactly; the kernels must then agree with ``decode``."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight.errors import RecipeError, UnsupportedModelError
from flyweight.formats import IntGroup, StoredWeight


def random_weight(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def definition(weight: np.ndarray, fmt: IntGroup) -> np.ndarray:
    """The decoded weight, element by element from the formula, in plain Python over float64."""
    low, high = -(2 ** (fmt.bits - 1)), 2 ** (fmt.bits - 1) - 1
    out, width = weight.shape
    length = fmt.group_size or width
    result = np.zeros_like(weight)
    scale_dtype = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[fmt.scale_dtype]
    for row in range(out):
        for start in range(0, width, length):
            group = weight if fmt.granularity == "tensor" else weight[row, start : start + length]
            smallest, largest = np.float32(group.min()), np.float32(group.max())
            if fmt.symmetric:
                scale, zero = max(abs(smallest), abs(largest)) / np.float32((high - low) / 2), 0
            else:
                smallest, largest = min(smallest, np.float32(0)), max(largest, np.float32(0))
                scale = (largest - smallest) / np.float32(high - low)
            scale = np.float32(scale_dtype(scale))
            if not fmt.symmetric:
                zero = int(np.clip(np.round(low - smallest / scale), low, high))
            for column in range(start, start + length):
                code = np.clip(np.round(weight[row, column] / scale) + zero, low, high)
                result[row, column] = (code - zero) * scale
    return result


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(
    ("granularity", "group_size"), [("tensor", None), ("channel", None), ("group", 4), ("group", 12)]
)
def test_encode_is_the_definition(bits, granularity, group_size, symmetric):
    fmt = IntGroup(bits=bits, granularity=granularity, group_size=group_size, symmetric=symmetric)
    weight = random_weight((3, 24))
    stored = fmt.encode(weight)
    np.testing.assert_array_equal(stored.decode(), definition(weight, fmt))
    assert stored.tensors["codes"].dtype == np.int8
    assert stored.tensors["scales"].dtype == ml_dtypes.bfloat16
    assert ("zero_points" in stored.tensors) is not symmetric


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    scale_dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=16, max_size=16),
)
def test_decoding_again_changes_nothing(bits, symmetric, scale_dtype, values):
    """Codes stay in range and every decoded weight lies within the step of its group, whatever the values."""
    fmt = IntGroup(bits=bits, granularity="group", group_size=8, symmetric=symmetric, scale_dtype=scale_dtype)
    weight = np.array(values, np.float32).reshape(2, 8)
    stored = fmt.encode(weight)
    low, high = fmt.code_range
    codes = stored.tensors["codes"]
    assert low <= codes.min() <= codes.max() <= high
    assert np.isfinite(stored.decode()).all()
    step = stored.tensors["scales"].astype(np.float32)
    slack = 1.0 + (high - low) * 2.0**-7  # the stored scale may be smaller than the exact one by its rounding
    assert (abs(stored.decode() - weight) <= step * slack + 1e-7).all()


def test_a_row_of_zeros_decodes_to_zeros():
    for symmetric in (True, False):
        fmt = IntGroup(bits=4, granularity="channel", group_size=None, symmetric=symmetric)
        assert not fmt.encode(np.zeros((2, 8), np.float32)).decode().any()


def test_sizes_count_everything():
    sym = IntGroup(bits=4, granularity="group", group_size=32)
    assert sym.nbytes((64, 128)) == 64 * 128 // 2 + 64 * 4 * 2
    asym = IntGroup(bits=4, granularity="group", group_size=32, symmetric=False)
    assert asym.nbytes((64, 128)) == sym.nbytes((64, 128)) + 4 * 64 * 4 // 8
    assert IntGroup(bits=3, granularity="channel", group_size=None).nbytes((2, 33)) == 2 * 4 * 4 + 2 * 2
    stored = sym.encode(random_weight((64, 128)))
    assert stored.bits_per_weight == 4.5


@pytest.mark.parametrize("compute", ["float32", "bfloat16", "int8", "int8_token"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("granularity", "group_size"), [("tensor", None), ("channel", None), ("group", 32), ("group", 43)]
)
def test_the_kernel_computes_with_the_decoded_weight(granularity, group_size, symmetric, compute):
    from flyweight import kernels

    fmt = IntGroup(bits=4, granularity=granularity, group_size=group_size, symmetric=symmetric)
    width = 172 if group_size == 43 else 192
    stored = fmt.encode(random_weight((40, width)))
    x = random_weight((5, width), seed=1)
    exact = x.astype(np.float64) @ stored.decode().astype(np.float64).T
    bound = {"float32": 1e-5, "bfloat16": 6e-3, "int8": 1.5e-2, "int8_token": 2.5e-2}[compute] * abs(exact).max()
    assert abs(kernels.linear(x, stored.prepare(compute)) - exact).max() < bound


def test_bad_settings_are_named():
    with pytest.raises(RecipeError, match=r"bits=9 is not supported for integer weights; choose 2 to 8"):
        IntGroup(bits=9)
    with pytest.raises(RecipeError, match="group_size=0 must be a positive number"):
        IntGroup(bits=4, group_size=0)
    with pytest.raises(RecipeError, match="group_size=32 contradicts granularity 'channel'"):
        IntGroup(bits=4, granularity="channel", group_size=32)
    with pytest.raises(RecipeError, match="scale_dtype='int8' is unknown"):
        IntGroup(bits=4, scale_dtype="int8")
    with pytest.raises(
        RecipeError,
        match=r"group_size=96 does not divide in_features=896 of m\.down_proj; choose 16, 32, 64 or 128, or",
    ):
        IntGroup(bits=4, group_size=96).check((10, 896), "m.down_proj")
    with pytest.raises(RecipeError, match=r"choose 4, 43 or 86"):
        IntGroup(bits=4, group_size=128).check((10, 172), "x")
    stored = IntGroup(bits=4, group_size=4).encode(random_weight((2, 8)))
    with pytest.raises(UnsupportedModelError, match="compute='fp4' is not available for weights stored as int4 g4"):
        stored.prepare("fp4")


def test_torch_tensors_give_the_same_codes():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    fmt = IntGroup(bits=4, granularity="group", group_size=8, symmetric=False)
    weight = random_weight((6, 32))
    expected = fmt.encode(weight)
    grouped = fmt.grouped(torch.from_numpy(weight))
    scales, zeros = fmt.parameters(grouped.amin(2), grouped.amax(2))
    codes = fmt.quantize(grouped, scales[:, :, None], zeros[:, :, None]).reshape(weight.shape)
    stored = fmt.store(codes, scales, zeros)
    assert isinstance(stored, StoredWeight)
    for name, values in expected.tensors.items():
        np.testing.assert_array_equal(stored.tensors[name], values)
