"""Weights rounded to nearest: integer codes with a scale for each group, which is what int_group means by encoding."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.checks import FLOAT_NAMES, Array, as_words, check_array, choose, float_name
from flyweight.kernels.linear import STORAGES

DTYPES = {name: dtype for dtype, name in FLOAT_NAMES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundedWeight:
    """``weight = (code - zero_point) * scale``: codes int8 (out_features, in_features); scales of the dtype that was
    asked for and zero points int8, both (out_features, in_features / group_size); zero points None when symmetric."""

    codes: NDArray[np.int8]
    scales: Array
    zero_points: NDArray[np.int8] | None


def round_weights(
    weight: Array,
    *,
    bits: int,
    group_size: int,
    symmetric: bool,
    scale_dtype: Literal["float32", "float16", "bfloat16"],
) -> RoundedWeight:
    """Round every weight to the nearest code, ties to even.

    With codes from ``low = -2^(bits-1)`` to ``high = 2^(bits-1) - 1``, symmetric: scale = max|w| / ((high - low) / 2);
    else scale = (max - min) / (high - low) over a range that includes 0, zero point = clamp(round(low - min / scale)).
    A scale is rounded to ``scale_dtype`` before it is used; one below 2^-24 becomes 1. Every operation is rounded to
    float32 on its own: the results are the twin's to the bit.

    Args:
        weight: float32, float16 or ml_dtypes.bfloat16 (out_features, in_features), contiguous.
        bits: 2 to 8.
        group_size: inputs that share a scale; a divisor of in_features.

    Raises:
        KernelError: a wrong dtype, shape or layout, a setting out of range, or a weight that is not finite.
    """
    source = choose("weight dtype", float_name("weight", weight), STORAGES)
    check_array("weight", weight, weight.dtype, (None, None))
    rows, width = weight.shape
    if not 2 <= bits <= 8:
        raise KernelError(f"bits={bits} is not supported; choose 2 to 8")
    if group_size < 1 or width % group_size:
        raise KernelError(f"group_size={group_size} does not divide in_features={width}; choose a divisor")
    scale_storage = choose("scale_dtype", scale_dtype, STORAGES)
    shape = (rows, width // group_size)
    codes, scales = np.empty(weight.shape, np.int8), np.empty(shape, DTYPES[scale_dtype])
    zero_points = None if symmetric else np.empty(shape, np.int8)
    _native.round_weights(
        as_words(weight), source, group_size, bits, symmetric, scale_storage, codes, as_words(scales), zero_points
    )
    if not np.isfinite(scales).all():
        raise KernelError("weight holds numbers that are not finite, or too large for scale_dtype; mend the checkpoint")
    return RoundedWeight(codes=codes, scales=scales, zero_points=zero_points)
