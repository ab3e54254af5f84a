import numpy as np
import pytest

from flyweight import kernels
from flyweight.errors import KernelError
from flyweight.kernels import ScaleRule, reference

RATIOS = (1.0, 0.95, 0.9, 0.8, 0.7)


def random_group(rng, rows, width):
    root = np.triu(rng.standard_normal((width, width)) * 0.2) + np.diag(rng.uniform(0.5, 2, width))
    return {
        "weight": rng.standard_normal((rows, width)).astype(np.float32),
        "inverse_cholesky": root.astype(np.float32),
    }


def given_scales(rng, rows):
    return {
        "scales": rng.uniform(0.1, 0.3, rows).astype(np.float32),
        "zero_points": rng.integers(-3, 4, rows).astype(np.float32),
    }


def check_same(group, **settings):
    """Codes, scales, zero points and losses agree bit by bit, and the weight is left alone."""
    before = group["weight"].copy()
    actual = kernels.gptq_group(**group, **settings)
    expected = reference.gptq_group(**group, **settings)
    for name in ("codes", "scales", "zero_points", "losses"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), err_msg=name)
    np.testing.assert_array_equal(group["weight"], before)
    assert len(np.unique(actual.codes)) > 4 or actual.codes.size < 10
    return actual


SIZES = [(1, 7), (2, 64), (7, 43), (33, 128), (128, 86)]


@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_given_scales(isa, rng, rows, width):
    check_same(random_group(rng, rows, width), minimum=-8, maximum=7, **given_scales(rng, rows))


@pytest.mark.parametrize(("rows", "width"), SIZES)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale_dtype", ["float32", "float16", "bfloat16"])
def test_the_best_of_several_scales(isa, rng, rows, width, symmetric, scale_dtype):
    group = random_group(rng, rows, width)
    group["weight"][0] = 0  # a row without a range
    rule = ScaleRule(symmetric=symmetric, scale_dtype=scale_dtype, ratios=RATIOS)
    check_same(group, minimum=-8, maximum=7, rule=rule)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_ratios(isa, rng, count):
    rule = ScaleRule(symmetric=True, scale_dtype="float32", ratios=RATIOS[:count])
    check_same(random_group(rng, 20, 32), minimum=-4, maximum=3, rule=rule)


def test_different_rows_keep_different_ratios(isa, rng):
    group = random_group(rng, 200, 64)
    group["weight"][::3, 5] *= 4  # outliers: a narrower range pays
    found = check_same(
        group, minimum=-8, maximum=7, rule=ScaleRule(symmetric=True, scale_dtype="float32", ratios=RATIOS)
    )
    shares = found.scales * 7.5 / np.abs(group["weight"]).max(axis=1)
    assert len(np.unique(np.round(shares, 3))) == len(RATIOS)


def test_rows_may_lie_apart(isa, rng):
    group = random_group(rng, 40, 96)
    wide = rng.standard_normal((40, 300)).astype(np.float32)
    rule = ScaleRule(symmetric=True, scale_dtype="bfloat16", ratios=RATIOS)
    check_same(group | {"weight": wide[:, 100:196]}, minimum=-8, maximum=7, rule=rule)


RULE = ScaleRule(symmetric=True, scale_dtype="float32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inverse_cholesky": np.ones((3, 4), np.float32)}, r"inverse_cholesky has shape \(3, 4\); \(4, 4\) is needed"),
        ({"weight": np.ones((2, 8), np.float32)[:, ::2]}, r"each row must be contiguous"),
        ({"maximum": 128}, r"codes from -8 to 128 are not possible"),
        ({"rule": None}, r"needs scales and zero_points, or a rule"),
        ({"rule": None, "scales": np.ones(3, np.float32), "zero_points": np.ones(2, np.float32)}, r"scales has shape"),
        ({"scales": np.ones(2, np.float32)}, r"not both"),
        ({"rule": ScaleRule(symmetric=True, scale_dtype="float32", ratios=())}, r"leaves no scale to try"),
        (
            {"rule": ScaleRule(symmetric=True, scale_dtype="int8")},
            r"scale_dtype='int8' is unknown; choose float32, float16, bfloat16",
        ),
    ],
)
def test_errors_name_what_is_wrong(rng, changes, message):
    with pytest.raises(KernelError, match=message):
        kernels.gptq_group(**random_group(rng, 2, 4) | {"minimum": -8, "maximum": 7, "rule": RULE} | changes)
