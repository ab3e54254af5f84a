import numpy as np
import pytest

from flyweight import kernels
from flyweight.errors import KernelError
from flyweight.kernels import reference


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 64), (7, 172), (33, 4, 24), (2, 3, 1)])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(isa, rng, shape, offset):
    x, weight = normal(rng, *shape) * 5, normal(rng, shape[-1])
    expected = reference.rms_norm(x, weight, 1e-5, offset)
    np.testing.assert_allclose(kernels.rms_norm(x, weight, 1e-5, offset), expected, rtol=2e-6, atol=1e-6)
    assert kernels.rms_norm(x, weight, 1e-5, offset, out=x) is x
    np.testing.assert_allclose(x, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(64, 64), (80, 32), (24, 24), (48, 12), (128, 0)])
def test_rope(isa, rng, head_dim, rotary_dim):
    x = normal(rng, 5, 3, head_dim)
    angles = rng.uniform(-10, 10, (5, rotary_dim // 2))
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    expected = reference.rope(x, cosine, sine)
    np.testing.assert_array_equal(kernels.rope(x, cosine, sine), expected)
    assert kernels.rope(x, cosine, sine, out=x) is x
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu"])
@pytest.mark.parametrize("width", [16, 172, 5])
def test_act_mul(isa, rng, activation, width):
    gate_up = normal(rng, 7, 2 * width) * 4
    gate_up[0, :5] = -100, -20, -0.0, 1e-20, 100
    actual = kernels.act_mul(gate_up, activation)
    np.testing.assert_allclose(actual, reference.act_mul(gate_up, activation), rtol=1e-6, atol=2e-6)


def test_a_gate_that_is_not_a_number_is_not_hidden(isa):
    gate_up = np.ones((1, 8), np.float32)
    gate_up[0, 1] = np.nan
    assert np.isnan(kernels.act_mul(gate_up, "silu")[0]).tolist() == [False, True, False, False]


@pytest.mark.parametrize("shape", [(1,), (7, 172), (3, 5, 7), (70, 2048)])
def test_add(isa, rng, shape):
    x, y = normal(rng, *shape), normal(rng, *shape)
    expected = reference.add(x, y, 0.22)
    np.testing.assert_array_equal(kernels.add(x, y, 0.22), expected)
    assert kernels.add(x, y, 0.22, out=x) is x
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("softcap", [0.0, 30.0])
def test_cap(isa, rng, softcap):
    x = normal(rng, 5, 509) * 40
    np.testing.assert_allclose(kernels.cap(x, 0.5, softcap), reference.cap(x, 0.5, softcap), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: kernels.rms_norm(x, np.ones(3, np.float32), 1e-5),
            r"x has shape \(2, 3, 4\); \(2, 3, 3\) is needed",
        ),
        (
            lambda x: kernels.rope(x, np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)),
            r"at most head_dim / 2 = 2",
        ),
        (lambda x: kernels.act_mul(x[0], "relu"), r"activation='relu' is unknown; choose silu, gelu_tanh, gelu"),
        (lambda x: kernels.act_mul(np.ones((2, 3), np.float32), "silu"), r"the second length must be even"),
        (lambda x: kernels.add(x, x[:1]), r"y has shape \(1, 3, 4\); \(2, 3, 4\) is needed"),
        (lambda x: kernels.add(x, x, out=np.broadcast_to(np.float32(0), (2, 3, 4))), r"out is not contiguous"),
        (lambda x: kernels.cap(x, 1.0, -1.0), r"softcap=-1.0 is negative"),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(KernelError, match=message):
        call(np.ones((2, 3, 4), np.float32))
