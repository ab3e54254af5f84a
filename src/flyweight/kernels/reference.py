"""The slow twins: what each kernel computes, in plain numpy. They define; the kernels must agree.

Linears are summed in float64, so that a comparison measures the kernel's error and not the twin's;
GPTQ is in float32, operation by operation, because there the very codes must agree. Checks nothing: the facade
does. The twins of the cache and of attention are in reference_attention.
"""

from dataclasses import dataclass
from math import erf
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flyweight.kernels.checks import Array, Float32
from flyweight.kernels.columns import SMALLEST_SCALE, GptqGroup, ScaleRule
from flyweight.kernels.grouping import activation_group

Float64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearHandle:
    """A weight as it was given: ``values`` are weights or codes; ``scales`` is None for a plain weight."""

    values: Array
    scales: Float32 | None
    zero_points: NDArray[np.int8] | None
    group_size: int
    compute: str


def prepare_plain(weight: Array, *, compute: Literal["float32", "bfloat16"]) -> LinearHandle:
    return LinearHandle(values=weight, scales=None, zero_points=None, group_size=weight.shape[1], compute=compute)


def prepare_int_group(
    codes: NDArray[np.int8],
    scales: Array,
    zero_points: NDArray[np.int8] | None,
    *,
    bits: int,
    group_size: int,
    compute: Literal["float32", "bfloat16", "int8", "int8_token"],
) -> LinearHandle:
    wide = scales.astype(np.float32)
    return LinearHandle(values=codes, scales=wide, zero_points=zero_points, group_size=group_size, compute=compute)


def linear(x: Float32, handle: LinearHandle, bias: Float32 | None = None, *, rounded_weights: bool = False) -> Float64:
    """``x @ weight.T + bias`` in the handle's compute, summed in float64.

    ``rounded_weights``: where integer codes compute in bfloat16, each weight is rounded to it with its scale.
    """
    y = _codes_linear(x, handle, rounded_weights) if handle.scales is not None else _plain_linear(x, handle)
    return y if bias is None else y + bias


def _plain_linear(x: Float32, handle: LinearHandle) -> Float64:
    weight: Array = handle.values.astype(np.float32)
    if handle.compute == "bfloat16":
        x, weight = _bfloat16(x), _bfloat16(weight)
    product: Float64 = x.astype(np.float64) @ weight.astype(np.float64).T
    return product


def _codes_linear(x: Float32, handle: LinearHandle, rounded_weights: bool) -> Float64:
    assert handle.scales is not None
    length = handle.group_size
    steps = handle.values.astype(np.float32)
    if handle.zero_points is not None:
        steps -= np.repeat(handle.zero_points, length, axis=1)
    scales = np.repeat(handle.scales, length, axis=1)
    if handle.compute == "float32":
        return x.astype(np.float64) @ (steps * scales).astype(np.float64).T
    if handle.compute == "bfloat16" and rounded_weights:
        return _bfloat16(x).astype(np.float64) @ _bfloat16(steps * scales).astype(np.float64).T
    if handle.compute == "bfloat16":
        return _bfloat16(x).astype(np.float64) @ (steps.astype(np.float64) * scales).T
    per_token = handle.compute == "int8_token"
    quantized, input_scales = quantize_activations(x, x.shape[1] if per_token else length, per_token=per_token)
    return (quantized * input_scales.astype(np.float64)) @ (steps.astype(np.float64) * scales).T


def quantize_activations(x: Float32, group_size: int, *, per_token: bool = False) -> tuple[Float32, Float32]:
    """8-bit inputs for a weight with ``group_size`` inputs per scale: whole numbers and their scales, of x's shape.

    The inputs of a row are cut by ``activation_group``, or not at all when ``per_token``. In each piece
    ``q = round(x * (127 / absmax))``, ties to even, all in float32, and its scale is ``absmax / 127``. A piece whose
    absmax is at most 1e-30 is all zeros.
    """
    quantized, scales = np.zeros_like(x), np.zeros_like(x)
    in_features = x.shape[1]
    length = in_features if per_token else activation_group(in_features, group_size)
    period = max(length, group_size)  # pieces restart with every group of the weight
    for start in range(0, in_features, period):
        stop_of_period = min(start + period, in_features)
        for begin in range(start, stop_of_period, length):
            piece = slice(begin, min(begin + length, stop_of_period))
            absmax = np.abs(x[:, piece]).max(axis=1, keepdims=True)
            alive = absmax > 1e-30
            inverse = np.where(alive, np.float32(127) / np.where(alive, absmax, np.float32(1)), np.float32(0))
            quantized[:, piece] = np.rint(x[:, piece] * inverse)
            scales[:, piece] = np.where(alive, absmax / np.float32(127), np.float32(0))
    return quantized, scales


def round_weights(
    weight: Array, *, bits: int, group_size: int, symmetric: bool, scale_dtype: str
) -> tuple[NDArray[np.int8], Array, NDArray[np.int8] | None]:
    """Codes, scales and zero points; every operation in float32."""
    low, high = np.float32(-(2 ** (bits - 1))), np.float32(2 ** (bits - 1) - 1)
    rows, width = weight.shape
    grouped = weight.astype(np.float32).reshape(rows, width // group_size, group_size)
    if symmetric:
        scales = np.abs(grouped).max(axis=2) / ((high - low) / np.float32(2))
    else:
        smallest, largest = np.minimum(grouped.min(axis=2), 0), np.maximum(grouped.max(axis=2), 0)
        scales = (largest - smallest) / (high - low)
    stored = scales.astype(scale_dtype)
    stored[stored.astype(np.float32) < SMALLEST_SCALE] = 1
    steps = stored.astype(np.float32)
    zero_points = None if symmetric else np.clip(np.rint(low - smallest / steps), low, high)
    codes = np.rint(grouped / steps[:, :, None]) + (0 if zero_points is None else zero_points[:, :, None])
    whole = np.clip(codes, low, high).astype(np.int8).reshape(weight.shape)
    return whole, stored, None if zero_points is None else zero_points.astype(np.int8)


def rms_norm(x: Float32, weight: Float32, epsilon: float, weight_offset: float = 0.0) -> Float64:
    wide = x.astype(np.float64)
    factor = 1 / np.sqrt((wide * wide).mean(axis=-1, keepdims=True) + epsilon)
    normed: Float64 = wide * factor * (weight.astype(np.float64) + weight_offset)
    return normed


def rope(x: Float32, cosine: Float32, sine: Float32) -> Float32:
    half = cosine.shape[1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    c, s = cosine[:, None, :], sine[:, None, :]
    return np.concatenate([first * c - second * s, second * c + first * s, rest], axis=-1)


def act_mul(gate_up: Float32, activation: Literal["silu", "gelu_tanh", "gelu"]) -> Float64:
    gate, up = np.split(gate_up.astype(np.float64), 2, axis=1)
    if activation == "silu":
        share = 1 / (1 + np.exp(-gate))
    elif activation == "gelu_tanh":
        share = 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    else:
        share = 0.5 * (1 + np.vectorize(erf, otypes=[np.float64])(gate / np.sqrt(2)))
    product: Float64 = gate * share * up
    return product


def add(x: Float32, y: Float32, alpha: float = 1.0) -> Float32:
    return x + np.float32(alpha) * y


def cap(x: Float32, scale: float, softcap: float = 0.0) -> Float64:
    scaled: Float64 = np.float64(np.float32(scale)) * x
    return scaled if softcap == 0 else softcap * np.tanh(scaled / softcap)


def gram(x: Float32, sums: Float32, *, compute: Literal["float32", "bfloat16"]) -> None:
    inputs = (_bfloat16(x) if compute == "bfloat16" else x).astype(np.float64)
    sums += inputs.T @ inputs


def gptq_group(
    weight: Float32,
    inverse_cholesky: Float32,
    *,
    minimum: int,
    maximum: int,
    scales: Float32 | None = None,
    zero_points: Float32 | None = None,
    rule: ScaleRule | None = None,
) -> GptqGroup:
    """The textbook loop, once for each scale that is tried: every column's error goes to all later columns at once."""
    if rule is None:
        assert scales is not None
        assert zero_points is not None
        return _gptq_columns(weight, inverse_cholesky, scales, zero_points, minimum, maximum)
    tries = [
        _gptq_columns(weight, inverse_cholesky, *_min_max(weight, ratio, minimum, maximum, rule), minimum, maximum)
        for ratio in rule.ratios
    ]
    best = np.argmin([one.losses for one in tries], axis=0)
    rows = np.arange(len(weight))
    return GptqGroup(
        codes=np.stack([one.codes for one in tries])[best, rows],
        scales=np.stack([one.scales for one in tries])[best, rows],
        zero_points=np.stack([one.zero_points for one in tries])[best, rows],
        losses=np.stack([one.losses for one in tries])[best, rows],
    )


def _gptq_columns(
    weight: Float32, inverse_cholesky: Float32, scale: Float32, zero: Float32, minimum: int, maximum: int
) -> GptqGroup:
    current, codes = weight.copy(), np.zeros(weight.shape, np.int8)
    losses = np.zeros(len(weight), np.float32)
    for i in range(weight.shape[1]):
        code = np.clip(np.rint(current[:, i] / scale) + zero, minimum, maximum).astype(np.float32)
        error = (current[:, i] - (code - zero) * scale) / inverse_cholesky[i, i]
        current[:, i + 1 :] -= error[:, None] * inverse_cholesky[i, i + 1 :]
        codes[:, i] = code.astype(np.int8)
        losses += error * error
    return GptqGroup(codes=codes, scales=scale, zero_points=zero, losses=losses)


def _min_max(weight: Float32, ratio: float, minimum: int, maximum: int, rule: ScaleRule) -> tuple[Float32, Float32]:
    span = np.float32(maximum - minimum)
    low, high = (
        np.minimum(weight.min(axis=1), 0) * np.float32(ratio),
        np.maximum(weight.max(axis=1), 0) * np.float32(ratio),
    )
    wide = np.maximum(-low, high) / (span / 2) if rule.symmetric else (high - low) / span
    dtypes = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    scale = wide.astype(dtypes[rule.scale_dtype]).astype(np.float32)
    scale = np.where(scale < SMALLEST_SCALE, np.float32(1), scale)
    zero = np.zeros_like(scale) if rule.symmetric else np.clip(np.rint(minimum - low / scale), minimum, maximum)
    return scale, zero.astype(np.float32)


def _bfloat16(values: Float32) -> Float32:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def unpack_codes(packed: NDArray[np.int32], bits: int, columns: int) -> NDArray[np.int8]:
    stream = np.unpackbits(packed.astype("<i4").view(np.uint8), axis=1, bitorder="little")
    elements = stream[:, : columns * bits].reshape(len(packed), columns, bits).astype(np.int16)
    codes: NDArray[np.int16] = (elements << np.arange(bits, dtype=np.int16)).sum(axis=2) - (1 << (bits - 1))
    return codes.astype(np.int8)
