"""Norm, rotary positions, gated activations, scaled addition and the finishing of logits."""

from typing import Literal

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.checks import FLOAT32, Float32, check_array, choose, output

ACTIVATIONS = {name: getattr(_native.Activation, name) for name in ("silu", "gelu_tanh", "gelu")}


def rms_norm(
    x: Float32, weight: Float32, epsilon: float, weight_offset: float = 0.0, out: Float32 | None = None
) -> Float32:
    """``x / sqrt(mean(x^2) + epsilon) * (weight + weight_offset)`` over the last axis.

    Args:
        x: float32 (..., n), contiguous, any leading axes.
        weight: float32 (n,).
        weight_offset: 1.0 for architectures that store the weight less one (Gemma).
        out: where to put the result; may be ``x``.
    """
    check_array("weight", weight, FLOAT32, (None,))
    if x.ndim == 0:
        raise KernelError(f"x has shape {x.shape}; (..., {weight.shape[0]}) is needed")
    check_array("x", x, FLOAT32, (*x.shape[:-1], weight.shape[0]))
    out = output("out", out, x.shape)
    _native.rms_norm(x, weight, out, epsilon, weight_offset)
    return out


def rope(x: Float32, cosine: Float32, sine: Float32, out: Float32 | None = None) -> Float32:
    """Rotate dimension i with dimension i + rotary_dim / 2 of every head by the token's angle i (the rotate-half form).

    Args:
        x: float32 (tokens, heads, head_dim), contiguous.
        cosine, sine: float32 (tokens, rotary_dim / 2); dimensions from rotary_dim on stay as they are.
        out: where to put the result; may be ``x``, which then is rotated in place. Default: a new array.
    """
    check_array("x", x, FLOAT32, (None, None, None))
    check_array("cosine", cosine, FLOAT32, (x.shape[0], None))
    check_array("sine", sine, FLOAT32, cosine.shape)
    if 2 * cosine.shape[1] > x.shape[2]:
        raise KernelError(
            f"cosine has {cosine.shape[1]} angles; at most head_dim / 2 = {x.shape[2] // 2} fit x {x.shape}"
        )
    out = output("out", out, x.shape)
    _native.rope(x, cosine, sine, out)
    return out


def act_mul(gate_up: Float32, activation: Literal["silu", "gelu_tanh", "gelu"], out: Float32 | None = None) -> Float32:
    """``activation(gate) * up`` for ``gate_up`` (rows, 2n) that holds gate and up side by side.

    Returns:
        float32 (rows, n): ``out`` if given, else a new array.
    """
    native_activation = choose("activation", activation, ACTIVATIONS)
    check_array("gate_up", gate_up, FLOAT32, (None, None))
    rows, width = gate_up.shape
    if width % 2:
        raise KernelError(
            f"gate_up has shape {gate_up.shape}; the second length must be even: gate and up side by side"
        )
    out = output("out", out, (rows, width // 2))
    _native.act_mul(gate_up, out, native_activation)
    return out


def add(x: Float32, y: Float32, alpha: float = 1.0, out: Float32 | None = None) -> Float32:
    """``x + alpha * y`` for two contiguous float32 arrays of one shape; ``out`` may be either of them."""
    check_array("x", x, FLOAT32, x.shape)
    check_array("y", y, FLOAT32, x.shape)
    out = output("out", out, x.shape)
    _native.add(x, y, out, alpha)
    return out


def cap(x: Float32, scale: float, softcap: float = 0.0, out: Float32 | None = None) -> Float32:
    """``z = scale * x``, then ``softcap * tanh(z / softcap)`` unless softcap is 0; ``out`` may be ``x``."""
    check_array("x", x, FLOAT32, x.shape)
    if softcap < 0:
        raise KernelError(f"softcap={softcap} is negative; give a positive number, or 0 for none")
    out = output("out", out, x.shape)
    _native.cap(x, out, scale, softcap)
    return out
