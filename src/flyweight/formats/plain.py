"""Unquantized weights: float32, float16 or bfloat16, stored as they are."""

from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np

from flyweight import kernels
from flyweight.errors import UnsupportedModelError
from flyweight.formats.base import Array, Compute, StoredWeight, check_compute

FloatName = Literal["float32", "float16", "bfloat16"]

FLOAT_DTYPES: dict[str, np.dtype[np.generic]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def float_name(dtype: np.dtype[np.generic]) -> FloatName:
    """The name of a floating dtype this package stores.

    Raises:
        UnsupportedModelError: for any other dtype.
    """
    for name, known in FLOAT_DTYPES.items():
        if known == dtype:
            return name  # type: ignore[return-value]
    raise UnsupportedModelError(f"dtype {dtype} is not a weight dtype; supported: {', '.join(FLOAT_DTYPES)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plain:
    """The ``plain`` format: one tensor ``weight`` (out_features, in_features) of a float dtype."""

    dtype: FloatName

    @property
    def name(self) -> str:
        return self.dtype

    def check(self, shape: tuple[int, int], layer: str) -> None:
        """Every shape can be stored so."""

    def encode(self, weight: Array) -> StoredWeight:
        values = weight.astype(FLOAT_DTYPES[self.dtype])
        return StoredWeight(format=self, shape=(weight.shape[0], weight.shape[1]), tensors={"weight": values})

    def decode(self, stored: StoredWeight) -> Array:
        return stored.tensors["weight"].astype(np.float32)

    def nbytes(self, shape: tuple[int, int]) -> int:
        return shape[0] * shape[1] * FLOAT_DTYPES[self.dtype].itemsize

    def prepare(self, stored: StoredWeight, compute: Compute) -> kernels.LinearHandle:
        check_compute(compute, ("float32", "bfloat16"), self.name)
        exact = compute == "float32"
        return kernels.prepare_plain(stored.tensors["weight"], compute="float32" if exact else "bfloat16")


def stored_plain(weight: Array) -> StoredWeight:
    """Wrap a float array (out_features, in_features) as it is, without copying."""
    return StoredWeight(
        format=Plain(dtype=float_name(weight.dtype)),
        shape=(weight.shape[0], weight.shape[1]),
        tensors={"weight": weight},
    )
