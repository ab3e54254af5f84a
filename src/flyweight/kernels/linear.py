"""Linear layers: a weight is prepared once into an opaque handle, then applied to rows of activations."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.checks import (
    FLOAT32,
    Array,
    Float32,
    as_words,
    check_array,
    check_rows,
    check_writable,
    choose,
    float_name,
)
from flyweight.kernels.grouping import activation_group
from flyweight.kernels.packed import packed_bits

INT8 = np.dtype(np.int8)
STORAGES = {name: getattr(_native.Storage, name) for name in ("float32", "float16", "bfloat16")}
PLAIN_COMPUTES = {name: getattr(_native.Compute, name) for name in ("float32", "bfloat16")}
CODE_STORAGES = {bits: getattr(_native.Storage, f"uint{packed_bits(bits)}") for bits in range(2, 9)}
CODE_COMPUTES = PLAIN_COMPUTES | {"int8": _native.Compute.int8, "int8_token": _native.Compute.int8}


def prepare_plain(weight: Array, *, compute: Literal["float32", "bfloat16"]) -> _native.LinearHandle:
    """Pack a floating point weight.

    Args:
        weight: (out_features, in_features), float32, float16 or ml_dtypes.bfloat16, contiguous. It is copied.
        compute: ``float32``: products and sums in float32; the weight keeps its own width in memory. ``bfloat16``:
            weight and inputs are rounded to bfloat16 (to nearest even), sums are float32.

    Raises:
        KernelError: a wrong dtype, shape or layout, or an unknown compute.
    """
    native_compute = choose("compute", compute, PLAIN_COMPUTES)
    storage = choose("weight dtype", float_name("weight", weight), STORAGES)
    check_array("weight", weight, weight.dtype, (None, None))
    _check_not_empty("weight", weight)
    return _native.prepare_plain(as_words(weight), storage, native_compute)


def prepare_int_group(
    codes: NDArray[np.int8],
    scales: Array,
    zero_points: NDArray[np.int8] | None,
    *,
    bits: int,
    group_size: int,
    compute: Literal["float32", "bfloat16", "int8", "int8_token"],
) -> _native.LinearHandle:
    """Pack a weight of integer codes: ``weight = (code - zero_point) * scale``, a scale per row and group of inputs.

    Args:
        codes: int8 (out_features, in_features), each in [-2^(bits-1), 2^(bits-1) - 1].
        scales: float32, float16 or ml_dtypes.bfloat16 (out_features, in_features / group_size); they keep their width
            in memory.
        zero_points: int8 of the scales' shape and the codes' range, or None where all are zero.
        bits: 2 to 8; up to 4, two codes share a byte in memory, up to 6, four share three, else each has one.
        group_size: inputs per scale; a divisor of in_features (in_features itself: one scale per channel).
        compute: ``float32``: exact weights, products and sums in float32. ``bfloat16``: inputs rounded to bfloat16,
            exact codes, a float32 sum per group, then times its scale; on ``amx``, from 8 rows and outside the
            batch-invariant mode, ``(code - zero_point) * scale`` is rounded to bfloat16 instead. ``int8``: inputs
            quantized per row and group of ``activation_group(in_features, group_size)`` inputs to
            ``round(x * 127 / absmax)``, exact integer sums, times both scales, a float32 sum over the groups.
            ``int8_token``: the same with one scale per row, which is what W8A8 checkpoints ask for ("dynamic per
            token").

    Raises:
        KernelError: a wrong dtype, shape or layout, a code out of range, or a setting out of range.
    """
    native_compute = choose("compute", compute, CODE_COMPUTES)
    if not 2 <= bits <= 8:
        raise KernelError(f"bits={bits} is not supported; choose 2 to 8")
    check_array("codes", codes, INT8, (None, None))
    _check_not_empty("codes", codes)
    out_features, in_features = codes.shape
    if group_size < 1 or in_features % group_size:
        raise KernelError(f"group_size={group_size} does not divide in_features={in_features}; choose a divisor")
    shape = (out_features, in_features // group_size)
    scale_storage = choose("scales dtype", float_name("scales", scales), STORAGES)
    check_array("scales", scales, scales.dtype, shape)
    _check_range("codes", codes, bits)
    if zero_points is not None:
        check_array("zero_points", zero_points, INT8, shape)
        _check_range("zero_points", zero_points, bits)
    group = in_features if compute == "int8_token" else activation_group(in_features, group_size)
    return _native.prepare_int_group(
        codes, as_words(scales), scale_storage, zero_points, group_size, group, CODE_STORAGES[bits], native_compute
    )


def linear(
    x: Float32, handle: _native.LinearHandle, bias: Float32 | None = None, out: Float32 | None = None
) -> Float32:
    """``x @ weight.T + bias`` in the handle's compute.

    Args:
        x: float32 (rows, in_features); rows may lie apart, each must be contiguous.
        bias: float32 (out_features,).
        out: where to put the result, float32 (rows, out_features), rows may lie apart; must not overlap ``x``.

    Returns:
        float32 (rows, out_features): ``out`` if given, else a new array.

    Raises:
        KernelError: a wrong dtype, shape or layout.
    """
    check_rows("x", x, FLOAT32, (None, handle.in_features))
    if bias is not None:
        check_array("bias", bias, FLOAT32, (handle.out_features,))
    if out is None:
        out = np.empty((x.shape[0], handle.out_features), np.float32)
    else:
        check_rows("out", out, FLOAT32, (x.shape[0], handle.out_features))
        check_writable("out", out)
    _native.linear(x, handle, bias, out)
    return out


def _check_not_empty(name: str, array: Array) -> None:
    if array.size == 0:
        raise KernelError(f"{name} has shape {array.shape}; neither length may be 0")


def _check_range(name: str, values: NDArray[np.int8], bits: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    smallest, largest = int(values.min()), int(values.max())
    if smallest < low or largest > high:
        raise KernelError(f"{name} lie in [{smallest}, {largest}]; with bits={bits} they must lie in [{low}, {high}]")
