"""The column loop of GPTQ inside one block of columns, where each row of the weight goes its own way.

It knows codes, scales and one triangular matrix; what a Hessian is and how blocks follow one another is not its matter.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.checks import FLOAT32, Float32, check_array, check_writable, choose

SCALE_TYPES = {name: getattr(_native.CacheType, name) for name in ("float32", "float16", "bfloat16")}
SMALLEST_SCALE = 2.0**-24  # below it a scale becomes 1, as in the int_group format


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleRule:
    """Min-max scales from the weights as they stand when their group's first column is reached.

    symmetric: scale = max|w| / ((maximum - minimum) / 2), zero point 0; else scale = (max - min) / (maximum - minimum)
    over a range that includes 0, zero point = clamp(round(minimum - min / scale)). The scale is rounded to
    ``scale_dtype`` before it is used; one below 2^-24 becomes 1.
    """

    symmetric: bool
    scale_dtype: Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GptqBlock:
    """What ``gptq_block`` found: codes int8 (rows, width), errors float32 (rows, width) divided by the diagonal of the
    inverse Cholesky factor, and losses float32 (rows,), half the sum of the squared errors."""

    codes: NDArray[np.int8]
    errors: Float32
    losses: Float32


def gptq_block(
    weight: Float32,
    inverse_cholesky: Float32,
    scales: Float32,
    zero_points: Float32,
    group_index: NDArray[np.int32],
    *,
    minimum: int,
    maximum: int,
    rule: ScaleRule | None = None,
) -> GptqBlock:
    """Quantize the columns of a block in order, spreading each column's error over the later ones (arXiv:2210.17323).

    ``q_i = clamp(round(w_i / s) + z, minimum, maximum)``, ``e_i = (w_i - (q_i - z) s) / U[i, i]``, then
    ``w_j -= e_i U[i, j]`` for j > i. Ties go to even. Every product and sum is rounded to float32 on its own, so codes
    are the same on every instruction set and in the twin.

    Args:
        weight: float32 (rows, width), contiguous; changed: column i is left as it was when it was quantized.
        inverse_cholesky: float32 (width, width), the upper factor U of the inverse Hessian; only that half is read.
        scales, zero_points: float32 (rows, groups). Read, or written where ``rule`` is given.
        group_index: int32 (width,): the column of ``scales`` that a column of ``weight`` uses.
        minimum, maximum: the range of the codes, within int8.
        rule: choose scales and zero points here, at the start of each group, instead of reading them; the columns of a
            group must then be neighbours.

    Raises:
        KernelError: a wrong dtype, shape or layout, or a setting out of range.
    """
    check_array("weight", weight, FLOAT32, (None, None))
    check_writable("weight", weight)
    rows, width = weight.shape
    check_array("inverse_cholesky", inverse_cholesky, FLOAT32, (width, width))
    check_array("scales", scales, FLOAT32, (rows, None))
    check_array("zero_points", zero_points, FLOAT32, scales.shape)
    check_array("group_index", group_index, np.dtype(np.int32), (width,))
    if width and not (group_index.min() >= 0 and group_index.max() < scales.shape[1]):
        raise KernelError(
            f"group_index lies in [{group_index.min()}, {group_index.max()}]; scales has {scales.shape[1]} groups"
        )
    if not -128 <= minimum < maximum <= 127:
        raise KernelError(f"codes from {minimum} to {maximum} are not possible; choose a range within [-128, 127]")
    if rule is not None:
        _check_runs(group_index)
        check_writable("scales", scales)
        check_writable("zero_points", zero_points)
    codes, errors = np.empty((rows, width), np.int8), np.empty((rows, width), np.float32)
    losses = np.empty(rows, np.float32)
    _native.gptq_block(
        weight,
        inverse_cholesky,
        scales,
        zero_points,
        group_index,
        minimum,
        maximum,
        rule is not None,
        rule is not None and rule.symmetric,
        choose("scale_dtype", "float32" if rule is None else rule.scale_dtype, SCALE_TYPES),
        codes,
        errors,
        losses,
    )
    return GptqBlock(codes=codes, errors=errors, losses=losses)


def _check_runs(group_index: NDArray[np.int32]) -> None:
    starts = group_index[np.concatenate([[True], np.diff(group_index) != 0])] if group_index.size else group_index
    if len(set(starts.tolist())) != len(starts):
        raise KernelError(
            "group_index returns to an earlier group; with a ScaleRule each group's columns must be neighbours"
        )
