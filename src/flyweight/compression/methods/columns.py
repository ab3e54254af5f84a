"""The column loop inside one run of columns: GPTQ's innermost part, for arrays of any library.

numpy arrays in float32 take the native kernel; the loops below are its slow twins and serve everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_array

from flyweight import kernels
from flyweight.formats.int_group import IntGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """``codes`` int8 (rows, width) under one ``scale`` and ``zero`` point (rows,) for each row; ``losses`` (rows,): sum
    over columns of ((w - q) / U_ii)^2."""

    codes: Any
    scale: Any
    zero: Any
    losses: Any


def round_columns(weight: Any, inverse: Any, scale: Any, zero: Any, form: IntGroup) -> Columns:
    """Round ``weight`` (rows, width) column by column under one ``scale`` and ``zero`` point (rows,) per row.

    ``inverse`` (width, width) is upper triangular, U of the run: column i's error divided by U_ii, times U_ij, is
    taken from column j.
    """
    if not _is_native(weight):
        return round_columns_slowly(weight, inverse, scale, zero, form)
    low, high = form.code_range
    found = kernels.gptq_group(
        np.asarray(weight, order="C"),
        np.ascontiguousarray(inverse),
        minimum=low,
        maximum=high,
        scales=np.ascontiguousarray(scale),
        zero_points=np.ascontiguousarray(zero),
    )
    return Columns(codes=found.codes, scale=scale, zero=zero, losses=found.losses)


def fit_columns(weight: Any, inverse: Any, ratios: Sequence[float], form: IntGroup) -> Columns:
    """As :func:`round_columns`, under the best scale of each row: ``ratios`` are the shares of the row's range that are
    tried, and the first one with the least loss is kept."""
    if not _is_native(weight):
        return fit_columns_slowly(weight, inverse, ratios, form)
    low, high = form.code_range
    rule = kernels.ScaleRule(symmetric=form.symmetric, scale_dtype=form.scale_dtype, ratios=tuple(ratios))
    found = kernels.gptq_group(
        np.asarray(weight, order="C"), np.ascontiguousarray(inverse), minimum=low, maximum=high, rule=rule
    )
    return Columns(codes=found.codes, scale=found.scales, zero=found.zero_points, losses=found.losses)


def _is_native(weight: Any) -> bool:
    return is_numpy_array(weight) and weight.dtype == np.float32


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
    return Columns(codes=codes, scale=scale, zero=zero, losses=losses)


def fit_columns_slowly(weight: Any, inverse: Any, ratios: Sequence[float], form: IntGroup) -> Columns:
    """What :func:`fit_columns` computes, in the array library's own operations."""
    xp = array_namespace(weight)
    low, high = xp.min(weight, axis=1), xp.max(weight, axis=1)
    best: Columns | None = None
    for ratio in ratios:
        scale, zero = form.parameters(low * ratio, high * ratio)
        tried = round_columns_slowly(weight, inverse, scale, xp.zeros_like(scale) if zero is None else zero, form)
        if best is None:
            best = tried
            continue
        better = tried.losses < best.losses
        best = Columns(
            codes=xp.where(better[:, None], tried.codes, best.codes),
            scale=xp.where(better, tried.scale, best.scale),
            zero=xp.where(better, tried.zero, best.zero),
            losses=xp.where(better, tried.losses, best.losses),
        )
    assert best is not None, "at least one ratio"
    return best
