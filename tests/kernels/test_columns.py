import numpy as np
import pytest

from flyweight import kernels
from flyweight.errors import KernelError
from flyweight.kernels import ScaleRule, reference


def random_block(rng, rows, width, group_size):
    root = np.triu(rng.standard_normal((width, width)) * 0.2) + np.diag(rng.uniform(0.5, 2, width))
    groups = -(-width // group_size)
    return {
        "weight": rng.standard_normal((rows, width)).astype(np.float32),
        "inverse_cholesky": root.astype(np.float32),
        "scales": rng.uniform(0.1, 0.3, (rows, groups)).astype(np.float32),
        "zero_points": rng.integers(-3, 4, (rows, groups)).astype(np.float32),
        "group_index": (np.arange(width) // group_size).astype(np.int32),
    }


def check_same(block, **settings):
    """Codes, errors, the weights left behind and chosen scales agree bit by bit."""
    mine, twin = ({name: array.copy() for name, array in block.items()} for _ in range(2))
    actual = kernels.gptq_block(**mine, **settings)
    expected = reference.gptq_block(**twin, **settings)
    np.testing.assert_array_equal(actual.codes, expected.codes)
    np.testing.assert_array_equal(actual.errors, expected.errors)
    np.testing.assert_array_equal(actual.losses, expected.losses)
    for name, array in mine.items():
        np.testing.assert_array_equal(array, twin[name], err_msg=name)
    assert len(np.unique(actual.codes)) > 4 or actual.codes.size < 10


SIZES = [(1, 7, 7), (2, 64, 32), (7, 43, 10), (33, 128, 128), (128, 86, 32)]


@pytest.mark.parametrize(("rows", "width", "group_size"), SIZES)
def test_gptq_block_with_given_scales(isa, rng, rows, width, group_size):
    check_same(random_block(rng, rows, width, group_size), minimum=-8, maximum=7)


@pytest.mark.parametrize(("rows", "width", "group_size"), SIZES)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale_dtype", ["float32", "float16", "bfloat16"])
def test_gptq_block_that_chooses_scales(isa, rng, rows, width, group_size, symmetric, scale_dtype):
    block = random_block(rng, rows, width, group_size)
    block["weight"][0, :group_size] = 0  # a group without a range
    check_same(block, minimum=-8, maximum=7, rule=ScaleRule(symmetric=symmetric, scale_dtype=scale_dtype))


def test_columns_in_any_order_of_groups(isa, rng):
    block = random_block(rng, 20, 64, 16)
    block["group_index"] = rng.permutation(block["group_index"])
    check_same(block, minimum=-128, maximum=127)


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"group_index": np.array([0, 0, 1, 2], np.int32)}, {}, r"group_index lies in \[0, 2\]; scales has 2 groups"),
        ({"scales": np.ones((3, 2), np.float32)}, {}, r"scales has shape \(3, 2\); \(2, any\) is needed"),
        ({}, {"maximum": 128}, r"codes from -8 to 128 are not possible"),
        (
            {"group_index": np.array([0, 1, 0, 1], np.int32)},
            {"rule": ScaleRule(symmetric=True, scale_dtype="float32")},
            r"returns to an earlier group",
        ),
        (
            {},
            {"rule": ScaleRule(symmetric=True, scale_dtype="int8")},
            r"scale_dtype='int8' is unknown; choose float32, float16, bfloat16",
        ),
    ],
)
def test_errors_name_what_is_wrong(rng, changes, settings, message):
    with pytest.raises(KernelError, match=message):
        kernels.gptq_block(**random_block(rng, 2, 4, 2) | changes, **{"minimum": -8, "maximum": 7} | settings)
