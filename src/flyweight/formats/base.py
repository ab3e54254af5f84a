"""The vocabulary of weight formats: a stored weight, and what every format can do with one.

A *format* is the bit layout of one weight matrix. How such weights are named and packed inside files is the
checkpoint floor's business; how they were chosen (RTN, GPTQ, ...) is compression's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from flyweight.errors import UnsupportedModelError
from flyweight.kernels import LinearHandle

Array = np.ndarray[Any, np.dtype[Any]]
Compute = Literal["float32", "bfloat16", "int8", "int8_token"]


@runtime_checkable
class Format(Protocol):
    """How one weight is stored. Implementations are frozen dataclasses: equal fields mean equal layout."""

    @property
    def name(self) -> str:
        """Short name for tables, such as ``int4 g64``."""
        ...

    def check(self, shape: tuple[int, int], layer: str) -> None:
        """Raise RecipeError, naming ``layer`` and the remedy, when a weight of ``shape`` cannot be stored so."""
        ...

    def encode(self, weight: Array) -> "StoredWeight":
        """The plainest encoding of a weight (out_features, in_features) of any floating dtype: round to nearest."""
        ...

    def decode(self, stored: "StoredWeight") -> Array:
        """The float32 (out_features, in_features) weight that the stored one stands for, exactly."""
        ...

    def nbytes(self, shape: tuple[int, int]) -> int:
        """Bytes of the stored weight on disk, scales and zero points included."""
        ...

    def prepare(self, stored: "StoredWeight", compute: Compute) -> LinearHandle:
        """Repack for this CPU's kernels, with activations in ``compute``."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredWeight:
    """One weight as stored: its format and that format's tensors.

    ``shape`` is (out_features, in_features). ``tensors`` holds, for ``plain``: ``weight``; for ``int_group``:
    ``codes`` int8 (out, in) unpacked and signed, ``scales`` (out | 1, groups) in the scale dtype and, when
    asymmetric, ``zero_points`` int8 of the scales' shape.
    """

    format: Format
    shape: tuple[int, int]
    tensors: Mapping[str, Array]

    def decode(self) -> Array:
        return self.format.decode(self)

    def prepare(self, compute: Compute) -> LinearHandle:
        return self.format.prepare(self, compute)

    @property
    def nbytes(self) -> int:
        return self.format.nbytes(self.shape)

    @property
    def bits_per_weight(self) -> float:
        return 8.0 * self.nbytes / (self.shape[0] * self.shape[1])


def check_compute(compute: str, allowed: tuple[Compute, ...], format_name: str) -> None:
    """Raise UnsupportedModelError when a format has no kernel for activations in ``compute``."""
    if compute not in allowed:
        raise UnsupportedModelError(
            f"compute={compute!r} is not available for weights stored as {format_name}; choose {' or '.join(allowed)}"
        )
