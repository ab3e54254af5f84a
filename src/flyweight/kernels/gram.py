"""Sums of products of features over tokens, X^T X: what calibration remembers of a layer's inputs."""

from typing import Literal

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.checks import FLOAT32, Float32, check_array, check_rows, check_writable, choose

COMPUTES = {"float32": False, "bfloat16": True}


def gram(x: Float32, sums: Float32, *, compute: Literal["float32", "bfloat16"]) -> None:
    """Add ``x^T x`` to the upper triangle of ``sums``; what lies below its diagonal is left without a meaning.

    Args:
        x: float32 (tokens, features); rows may lie apart, each must be contiguous.
        sums: float32 (features, features), contiguous, changed in place.
        compute: ``float32``: products and sums in float32. ``bfloat16``: ``x`` is rounded to bfloat16 (to nearest
            even) first, as a layer that computes in bfloat16 sees it; sums are float32. The order of the sums does not
            depend on the number of threads, but on the instruction set.

    Raises:
        KernelError: a wrong dtype, shape or layout, or an unknown compute.
    """
    check_rows("x", x, FLOAT32, (None, None))
    if x.shape[1] == 0:
        raise KernelError("x has no features")
    check_array("sums", sums, FLOAT32, (x.shape[1], x.shape[1]))
    check_writable("sums", sums)
    _native.gram(x, sums, choose("compute", compute, COMPUTES))
