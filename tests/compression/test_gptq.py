"""GPTQ against an independent oracle: optimal brain quantization column by column, each time with the explicit inverse
of the Hessian of the columns still free, in float64. No Cholesky factor, no blocks, no in-place updates."""

import numpy as np
import pytest

from flyweight.compression.methods import METHODS
from flyweight.compression.methods.columns import fit_columns, fit_columns_slowly, round_columns, round_columns_slowly
from flyweight.compression.methods.gptq import GptqOptions, column_order, quantize
from flyweight.compression.methods.rtn import RtnOptions
from flyweight.compression.statistics import InputStatistics
from flyweight.errors import RecipeError
from flyweight.formats.int_group import IntGroup

DAMPING = 0.01


def problem(out_features=24, in_features=96, tokens=400, seed=0):
    """Correlated inputs, so that feeding errors forward matters; multiples of 2^-12, so that X^T X is nearly exact."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((in_features, in_features)) * (rng.random(in_features) * 2 + 0.2)
    x = np.round(rng.standard_normal((tokens, in_features)) @ mixing * 64) / 4096
    return rng.standard_normal((out_features, in_features)).astype(np.float32), x.astype(np.float32)


def statistics_of(x, target=None):
    statistics = InputStatistics(x.shape[1])
    statistics.add(x, target)
    return statistics


def oracle(weight, x, form, order, target=None):
    """Codes and scales (out, groups), by the definition: fix one column, solve the rest again, go on."""
    weight, hessian = weight.astype(np.float64), x.astype(np.float64).T @ x.astype(np.float64)
    ridge = DAMPING * hessian.diagonal().mean()
    hessian = hessian + ridge * np.eye(len(hessian))
    if target is not None:
        weight = np.linalg.solve(hessian, x.astype(np.float64).T @ target + ridge * weight.T).T
    columns = list(range(weight.shape[1])) if order is None else list(order)
    length = form.group_length(weight.shape[1])
    low, high = form.code_range
    current, codes = weight.copy(), np.zeros(weight.shape, int)
    scales = np.zeros((len(weight), weight.shape[1] // length))
    zeros = np.zeros_like(scales)
    for position, column in enumerate(columns):
        group = column // length
        if position % length == 0:
            members = columns[position : position + length]
            scale, zero = form.parameters(current[:, members].min(axis=1), current[:, members].max(axis=1))
            scales[:, group] = scale
            zeros[:, group] = 0 if zero is None else zero
        scale, zero = scales[:, group], zeros[:, group]
        codes[:, column] = np.clip(np.round(current[:, column] / scale) + zero, low, high)
        fixed = (codes[:, column] - zero) * scale
        free = columns[position:]
        inverse = np.linalg.inv(hessian[np.ix_(free, free)])
        current[:, free] -= np.outer((current[:, column] - fixed) / inverse[0, 0], inverse[0])
    decoded = (codes.reshape(*scales.shape, length) - zeros[:, :, None]) * scales[:, :, None]
    return codes, decoded.reshape(weight.shape)


def quantize_float64(weight, x, form, options, target=None):
    """The method in float64, where it and the oracle take the same decisions."""
    x = x.astype(np.float64)
    statistics = InputStatistics(x.shape[1], like=x)
    statistics.add(x, target)
    return quantize(weight.astype(np.float64), statistics, form, options)


@pytest.mark.parametrize("order", ["none", "groups"])
@pytest.mark.parametrize(
    "form",
    [
        IntGroup(bits=4, group_size=32, scale_dtype="float32"),
        IntGroup(bits=4, group_size=32, scale_dtype="bfloat16"),
        IntGroup(bits=3, group_size=16, symmetric=False, scale_dtype="float32"),
        IntGroup(bits=8, granularity="channel", group_size=None, scale_dtype="float32"),
    ],
    ids=lambda form: f"{form.name} {form.scale_dtype}",
)
def test_equals_the_oracle(form, order):
    weight, x = problem()
    options = GptqOptions(order=order, scales="minmax", damping=DAMPING, shrinkage=0)
    columns = column_order((x.astype(np.float64) ** 2).sum(axis=0), form.group_length(96), order)
    codes, decoded = oracle(weight, x, form, columns)
    exact = quantize_float64(weight, x, form, options)
    np.testing.assert_array_equal(exact.stored.tensors["codes"], codes)
    np.testing.assert_allclose(exact.stored.decode(), decoded, rtol=1e-5, atol=1e-5)
    # In float32 a weight near the middle between two codes may go the other way, and its followers with it.
    fast = quantize(weight, statistics_of(x), form, options)
    assert (fast.stored.tensors["codes"] == codes).mean() > 0.95
    outputs = x @ weight.T
    lost, expected = squared_loss(fast, x, outputs), float(((x @ decoded.T - outputs) ** 2).sum())
    assert lost == pytest.approx(expected, rel=0.01)


def test_wide_groups_equal_the_oracle():
    """A group of more columns than the loop takes at once is rounded in runs."""
    weight, x = problem(in_features=320, tokens=900)
    form = IntGroup(bits=4, granularity="channel", group_size=None, scale_dtype="float32")
    options = GptqOptions(order="none", scales="minmax", damping=DAMPING, shrinkage=0)
    codes, decoded = oracle(weight, x, form, None)
    result = quantize_float64(weight, x, form, options)
    np.testing.assert_array_equal(result.stored.tensors["codes"], codes)
    np.testing.assert_allclose(result.stored.decode(), decoded, rtol=1e-5, atol=1e-5)


def test_targets_equal_the_oracle():
    weight, x = problem()
    target = x @ weight.T * 1.05 + 0.1 * x[:, :24]
    form = IntGroup(bits=4, group_size=32, scale_dtype="float32")
    options = GptqOptions(order="none", scales="minmax", damping=DAMPING, shrinkage=0)
    codes, decoded = oracle(weight, x, form, None, target=target.astype(np.float64))
    result = quantize_float64(weight, x, form, options, target=target.astype(np.float64))
    np.testing.assert_array_equal(result.stored.tensors["codes"], codes)
    np.testing.assert_allclose(result.stored.decode(), decoded, rtol=1e-5, atol=1e-5)
    fast = quantize(weight, statistics_of(x, target), form, options)
    without = quantize(weight, statistics_of(x, target), form, GptqOptions(correct=False, damping=DAMPING, shrinkage=0))
    assert squared_loss(fast, x, target) < 0.8 * squared_loss(without, x, target)


def squared_loss(result, x, target):
    return float(((x @ result.stored.decode().T - target) ** 2).sum())


@pytest.mark.parametrize("order", ["none", "groups"])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_reported_error_is_the_error(order, bits):
    weight, x = problem()
    form = IntGroup(bits=bits, group_size=32)
    result = quantize(weight, statistics_of(x), form, GptqOptions(order=order))
    outputs = x @ weight.T
    expected = np.sqrt(squared_loss(result, x, outputs) / (outputs**2).sum())
    assert result.measured_on == "outputs"
    assert result.error == pytest.approx(expected, rel=0.02)


def test_loss_scales_lose_less_than_minmax():
    weight, x = problem(out_features=64)
    form, target = IntGroup(bits=4, group_size=32), x @ weight.T
    losses = {
        scales: squared_loss(quantize(weight, statistics_of(x), form, GptqOptions(scales=scales)), x, target)
        for scales in ("minmax", "loss")
    }
    rounded = METHODS["rtn"].quantize(weight, None, form, RtnOptions(scales="mse"))
    assert losses["loss"] < 0.95 * losses["minmax"]
    assert losses["minmax"] < 0.7 * squared_loss(rounded, x, target)


def test_no_input_index_is_needed():
    """Groups are neighbours in the stored order, whatever the order of rounding."""
    weight, x = problem()
    result = quantize(weight, statistics_of(x), IntGroup(bits=4, group_size=32), GptqOptions(order="groups"))
    assert set(result.stored.tensors) == {"codes", "scales"}
    order = column_order((x**2).sum(axis=0), 32, "groups")
    assert sorted(order.tolist()) == list(range(96))
    for start in range(0, 96, 32):
        assert len({int(column) // 32 for column in order[start : start + 32]}) == 1


def test_a_layer_with_too_few_tokens_is_rounded_to_nearest_and_named():
    weight, x = problem(tokens=10)
    form = IntGroup(bits=4, group_size=32)
    result = quantize(weight, statistics_of(x), form, GptqOptions(fewest_tokens=64))
    rounded = METHODS["rtn"].quantize(weight, None, form, RtnOptions(scales="mse"))
    np.testing.assert_array_equal(result.stored.tensors["codes"], rounded.stored.tensors["codes"])
    assert result.notes == ("saw 10 tokens, fewer than 64: rounded to nearest",)
    assert result.measured_on == "weights"


def test_dead_inputs_become_zero_and_are_named():
    weight, x = problem()
    x[:, [0, 40]] = 0
    weight[:, 40] = 100.0  # would spoil the scale of its group
    result = quantize(weight, statistics_of(x), IntGroup(bits=4, group_size=32), GptqOptions())
    assert result.notes == ("2 inputs were always zero",)
    assert not result.stored.decode()[:, [0, 40]].any()
    assert result.error < 0.1


def test_raised_damping_is_named():
    weight, _ = problem(in_features=64)
    x = np.repeat(np.random.default_rng(0).standard_normal((200, 1)), 64, axis=1).astype(np.float32) * 1000
    result = quantize(
        weight, statistics_of(x), IntGroup(bits=4, group_size=32), GptqOptions(damping=1e-12, shrinkage=0)
    )
    assert "damping raised to" in result.notes[0]
    assert result.damping >= 1e-4


def test_statistics_of_few_tokens_are_trusted_less():
    """The damping grows with inputs per token; noise in the targets is then not taken for something to learn."""
    weight, x = problem(tokens=4000)
    few, other = x[:120], x[120:]
    clean = few @ weight.T
    noise = np.random.default_rng(1).standard_normal(clean.shape).astype(np.float32) * clean.std()
    form, outputs = IntGroup(bits=8, group_size=32), other @ weight.T
    plain = quantize(weight, statistics_of(few, clean + noise), form, GptqOptions(shrinkage=0))
    shrunk = quantize(weight, statistics_of(few, clean + noise), form, GptqOptions())
    assert plain.damping == 0.01
    assert shrunk.damping == pytest.approx(0.01 + 96 / 120)
    assert squared_loss(shrunk, other, outputs) < 0.5 * squared_loss(plain, other, outputs)


def test_shared_statistics_serve_layers_of_different_groups():
    weight, x = problem()
    shared = statistics_of(x)
    for group_size in (32, 16, 32):
        form = IntGroup(bits=4, group_size=group_size)
        together = quantize(weight, shared, form, GptqOptions())
        alone = quantize(weight, statistics_of(x), form, GptqOptions())
        np.testing.assert_array_equal(together.stored.tensors["codes"], alone.stored.tensors["codes"])


def test_the_weight_is_not_changed():
    weight, x = problem()
    before = weight.copy()
    quantize(weight, statistics_of(x), IntGroup(bits=4, group_size=32), GptqOptions())
    np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("width", [1, 7, 32, 128])
def test_the_kernel_is_its_slow_twin(width, symmetric):
    rng = np.random.default_rng(width)
    weight = rng.standard_normal((37, width)).astype(np.float32)
    inverse = np.triu(rng.standard_normal((width, width)) * 0.1 + np.eye(width)).astype(np.float32)
    form = IntGroup(bits=4, granularity="channel", group_size=None, symmetric=symmetric, scale_dtype="float32")
    scale, zero = form.parameters(weight.min(axis=1), weight.max(axis=1))
    zero = np.zeros_like(scale) if zero is None else zero
    fast = round_columns(weight, inverse, scale, zero, form)
    slow = round_columns_slowly(weight, inverse, scale, zero, form)
    np.testing.assert_array_equal(fast.codes, slow.codes)
    np.testing.assert_allclose(fast.losses, slow.losses, rtol=1e-5)
    fitted, fitted_slowly = (
        fit(weight, inverse, (1.0, 0.9, 0.8, 0.7), form) for fit in (fit_columns, fit_columns_slowly)
    )
    np.testing.assert_array_equal(fitted.codes, fitted_slowly.codes)
    np.testing.assert_array_equal(fitted.scale, fitted_slowly.scale)
    np.testing.assert_array_equal(fitted.zero, fitted_slowly.zero)
    assert (fitted.losses <= fast.losses).all()


def test_torch_gives_the_same():
    torch = pytest.importorskip("torch")
    weight, x = problem()
    form = IntGroup(bits=4, group_size=32, scale_dtype="float32")
    statistics = InputStatistics(96, like=torch.zeros(1))
    statistics.add(torch.tensor(x))
    result = quantize(torch.tensor(weight), statistics, form, GptqOptions())
    expected = quantize(weight, statistics_of(x), form, GptqOptions())
    differing = (result.stored.tensors["codes"] != expected.stored.tensors["codes"]).mean()
    assert differing < 0.01
    assert result.error == pytest.approx(expected.error, rel=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0}, "damping=0 must be above 0 and at most 1; 0.01 is usual"),
        ({"correct_from": -1}, "correct_from=-1 must be 0 or more; 2 is usual"),
        ({"shrinkage": -1}, "shrinkage=-1 must be 0 or more; 1 is usual"),
        ({"order": "desc"}, "order='desc' is unknown; choose groups or none"),
        ({"scales": "mse"}, "scales='mse' is unknown; choose minmax or loss"),
        ({"fewest_tokens": 0}, "fewest_tokens=0 must be a positive whole number"),
        ({"correct": 1}, "correct=1 must be true or false"),
        ({"clip_steps": 1}, "clip_steps=1 must be a whole number from 2 to 200"),
        ({"clip_smallest": 2.0}, "clip_smallest=2.0 must be a fraction of the range, from 0.1 to below 1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(RecipeError) as caught:
        GptqOptions(**options)
    assert str(caught.value) == message
