"""The column loop of GPTQ over the columns of one group, where each row of the weight goes its own way.

It knows codes, scales and one triangular matrix; what a Hessian is and how groups follow one another is not its matter.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.checks import FLOAT32, Float32, check_array, check_rows, choose

SCALE_TYPES = {name: getattr(_native.CacheType, name) for name in ("float32", "float16", "bfloat16")}
SMALLEST_SCALE = 2.0**-24  # below it a scale becomes 1, as in the int_group format


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleRule:
    """Scales that are tried: for each of ``ratios``, the min-max scale of that share of what a row's weights span.

    symmetric: scale = max|w| / ((maximum - minimum) / 2), zero point 0; else scale = (max - min) / (maximum - minimum)
    over a range that includes 0, zero point = clamp(round(minimum - min / scale)). The scale is rounded to
    ``scale_dtype`` before it is used; one below 2^-24 becomes 1. A row keeps the first scale with the least loss.
    """

    symmetric: bool
    scale_dtype: Literal["float32", "float16", "bfloat16"]
    ratios: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, kw_only=True, slots=True)
class GptqGroup:
    """What ``gptq_group`` found: codes int8 (rows, width); scales and zero points float32 (rows,); losses float32
    (rows,), the sum of the squared errors, each divided by its place of the factor's diagonal."""

    codes: NDArray[np.int8]
    scales: Float32
    zero_points: Float32
    losses: Float32


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
    """Quantize columns in order, spreading each column's error over the later ones (arXiv:2210.17323, algorithm 1).

    ``q_i = clamp(round(w_i / s) + z, minimum, maximum)``, ``e_i = (w_i - (q_i - z) s) / U[i, i]``, then
    ``w_j -= e_i U[i, j]`` for j > i. Ties go to even. Every product and sum is rounded to float32 on its own, so codes
    are the same on every instruction set and in the twin.

    Args:
        weight: float32 (rows, width); rows may lie apart, each must be contiguous.
        inverse_cholesky: float32 (width, width), the upper factor U of the inverse Hessian; only that half is read.
        minimum, maximum: the range of the codes, within int8.
        scales, zero_points: float32 (rows,), where no rule is given.
        rule: choose them here.

    Raises:
        KernelError: a wrong dtype, shape or layout, or a setting out of range.
    """
    check_rows("weight", weight, FLOAT32, (None, None))
    rows, width = weight.shape
    check_array("inverse_cholesky", inverse_cholesky, FLOAT32, (width, width))
    if not -128 <= minimum < maximum <= 127:
        raise KernelError(f"codes from {minimum} to {maximum} are not possible; choose a range within [-128, 127]")
    if rule is None:
        if scales is None or zero_points is None:
            raise KernelError("gptq_group needs scales and zero_points, or a rule for them")
        check_array("scales", scales, FLOAT32, (rows,))
        check_array("zero_points", zero_points, FLOAT32, (rows,))
        ratios = np.empty(0, np.float32)
    else:
        if scales is not None or zero_points is not None:
            raise KernelError("gptq_group takes scales and zero_points, or a rule for them, not both")
        if not rule.ratios:
            raise KernelError("ratios=() leaves no scale to try; give at least one")
        scales, zero_points = np.empty(rows, np.float32), np.empty(rows, np.float32)
        ratios = np.array(rule.ratios, np.float32)
    codes, losses = np.empty((rows, width), np.int8), np.empty(rows, np.float32)
    _native.gptq_group(
        weight,
        inverse_cholesky,
        ratios,
        minimum,
        maximum,
        rule is not None and rule.symmetric,
        choose("scale_dtype", "float32" if rule is None else rule.scale_dtype, SCALE_TYPES),
        codes,
        scales,
        zero_points,
        losses,
    )
    return GptqGroup(codes=codes, scales=scales, zero_points=zero_points, losses=losses)
