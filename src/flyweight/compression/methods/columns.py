"""The column loop inside one run of columns: GPTQ's innermost part, for arrays of any library.

numpy arrays in float32 take the native kernel; the loop below is its slow twin and serves everything else.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_array

from flyweight import kernels
from flyweight.formats.base import Array
from flyweight.formats.int_group import IntGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """``codes`` int8 (rows, width); ``losses`` (rows,): sum over columns of ((w - q) / U_ii)^2."""

    codes: Any
    losses: Any


def round_columns(weight: Any, inverse: Any, scale: Any, zero: Any, form: IntGroup) -> Columns:
    """Round ``weight`` (rows, width) column by column under one ``scale`` and ``zero`` point (rows,) per row.

    ``inverse`` (width, width) is upper triangular, U of the run: column i's error divided by U_ii, times U_ij, is
    taken from column j.
    """
    if is_numpy_array(weight) and weight.dtype == np.float32:
        return _round_native(weight, inverse, scale, zero, form)
    return round_columns_slowly(weight, inverse, scale, zero, form)


def _round_native(weight: Array, inverse: Array, scale: Array, zero: Array, form: IntGroup) -> Columns:
    low, high = form.code_range
    block = kernels.gptq_block(
        np.array(weight, np.float32, order="C"),  # a copy: the kernel changes what it is given
        np.ascontiguousarray(inverse),
        np.ascontiguousarray(scale[:, None]),
        np.ascontiguousarray(zero[:, None]),
        np.zeros(weight.shape[1], np.int32),
        minimum=low,
        maximum=high,
    )
    return Columns(codes=block.codes, losses=2.0 * block.losses)


def round_columns_slowly(weight: Any, inverse: Any, scale: Any, zero: Any, form: IntGroup) -> Columns:
    """What :func:`round_columns` computes, in the array library's own operations."""
    xp = array_namespace(weight)
    width = weight.shape[1]
    current = xp.asarray(weight, copy=True)
    codes = xp.zeros_like(current, dtype=xp.int8)
    losses = xp.zeros_like(scale)
    zero_points = None if form.symmetric else zero
    for i in range(width):
        column = current[:, i]
        code = form.quantize(column, scale, zero_points)
        error = (column - (code - zero) * scale) / inverse[i, i]
        codes[:, i] = xp.astype(code, xp.int8)
        losses = losses + error * error
        if i + 1 < width:
            current[:, i + 1 :] -= error[:, None] * inverse[i, i + 1 :][None, :]
    return Columns(codes=codes, losses=losses)
