"""Round to nearest: the format's own encoding, and the clip search against trying everything by hand."""

import numpy as np
import pytest

from flyweight.compression.methods.rtn import RtnOptions, clip_ratios, quantize
from flyweight.errors import RecipeError
from flyweight.formats.int_group import IntGroup

FORMS = [
    IntGroup(bits=4, group_size=32),
    IntGroup(bits=3, group_size=16, symmetric=False),
    IntGroup(bits=8, granularity="channel", group_size=None),
    IntGroup(bits=8, granularity="tensor", group_size=None),
]


def weight(rows=300, columns=64, seed=0):
    return np.random.default_rng(seed).standard_t(4, (rows, columns)).astype(np.float32)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_minmax_is_the_formats_encoding(form):
    result = quantize(weight(), None, form, RtnOptions())
    expected = form.encode(weight())
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(result.stored.tensors[name], tensor, err_msg=name)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_the_reported_error_is_the_error(form):
    for scales in ("minmax", "mse"):
        result = quantize(weight(), None, form, RtnOptions(scales=scales))
        lost = np.linalg.norm(result.stored.decode() - weight()) / np.linalg.norm(weight())
        assert result.error == pytest.approx(lost, rel=1e-4)
        assert result.measured_on == "weights"


def test_mse_finds_the_best_ratio_of_each_group():
    form, options = IntGroup(bits=4, group_size=32, scale_dtype="float32"), RtnOptions(scales="mse", clip_steps=7)
    values = weight(5, 32)
    result = quantize(values, None, form, options)
    for row in values:
        errors = []
        for ratio in clip_ratios(options.clip_smallest, 7):
            scale = np.float32(np.abs(row).max() * np.float32(ratio) / 7.5)
            errors.append(float(((np.clip(np.round(row / scale), -8, 7) * scale - row) ** 2).sum()))
        mine = ((result.stored.decode()[values.tolist().index(row.tolist())] - row) ** 2).sum()
        assert mine == pytest.approx(min(errors), rel=1e-4)


def test_mse_loses_less_than_minmax():
    form = IntGroup(bits=4, group_size=32)
    errors = [quantize(weight(), None, form, RtnOptions(scales=scales)).error for scales in ("minmax", "mse")]
    assert errors[1] < 0.95 * errors[0]


def test_torch_gives_the_same():
    torch = pytest.importorskip("torch")
    form, options = IntGroup(bits=4, group_size=32), RtnOptions(scales="mse")
    result = quantize(torch.tensor(weight()), None, form, options)
    expected = quantize(weight(), None, form, options)
    np.testing.assert_array_equal(result.stored.tensors["codes"], expected.stored.tensors["codes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": "loss"}, "scales='loss' is unknown; choose minmax or mse"),
        ({"clip_smallest": 1.0}, "clip_smallest=1.0 must be a fraction of the range, from 0.1 to below 1"),
        ({"clip_steps": True}, "clip_steps=True must be a whole number from 2 to 200"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(RecipeError) as caught:
        RtnOptions(**options)
    assert str(caught.value) == message
