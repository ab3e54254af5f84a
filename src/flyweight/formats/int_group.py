"""Integer codes with a scale (and zero point) per tensor, per output channel or per group of inputs.

``weight = (code - zero_point) * scale`` with signed codes in ``[-2^(bits-1), 2^(bits-1) - 1]``, the convention
of compressed-tensors: symmetric scale = max|w| / ((qmax - qmin) / 2); asymmetric scale = (max - min) /
(qmax - qmin) over a range that includes zero. Scales are rounded to the dtype they are stored in *before* any
code is chosen, so that what was measured is what is stored.

Everything here runs on numpy arrays and, through the array API, on torch tensors of any device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace, is_torch_array

from flyweight import kernels
from flyweight.errors import RecipeError
from flyweight.formats.base import Array, Compute, StoredWeight, check_compute
from flyweight.formats.plain import FLOAT_DTYPES, FloatName

Granularity = Literal["tensor", "channel", "group"]
SMALLEST_SCALE = 2.0**-24  # the smallest float16 above zero: no scale of a stored dtype may be zero


@dataclass(frozen=True, kw_only=True, slots=True)
class IntGroup:
    """The ``int_group`` format.

    ``bits`` 2 to 8; ``group_size`` inputs share a scale (only with granularity ``group``; it must divide the
    layer's in_features). ``scale_dtype`` is how scales are stored.

    Raises:
        RecipeError: when a field is out of range or the fields contradict each other.
    """

    bits: int
    granularity: Granularity = "group"
    group_size: int | None = 128
    symmetric: bool = True
    scale_dtype: FloatName = "bfloat16"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise RecipeError(f"bits={self.bits} is not supported for integer weights; choose 2 to 8")
        if self.granularity not in ("tensor", "channel", "group"):
            raise RecipeError(f"granularity={self.granularity!r} is unknown; choose tensor, channel or group")
        if self.granularity == "group" and (self.group_size is None or self.group_size < 1):
            raise RecipeError(f"group_size={self.group_size} must be a positive number with granularity 'group'")
        if self.granularity != "group" and self.group_size is not None:
            raise RecipeError(
                f"group_size={self.group_size} contradicts granularity {self.granularity!r}; leave it out"
            )
        if self.scale_dtype not in FLOAT_DTYPES:
            raise RecipeError(f"scale_dtype={self.scale_dtype!r} is unknown; choose {', '.join(FLOAT_DTYPES)}")

    @property
    def name(self) -> str:
        grain = f"g{self.group_size}" if self.granularity == "group" else self.granularity
        return f"int{self.bits} {grain}" + ("" if self.symmetric else " asym")

    @property
    def code_range(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    def group_length(self, in_features: int) -> int:
        """How many inputs share a scale in a layer of ``in_features``."""
        return self.group_size if self.group_size is not None else in_features

    def check(self, shape: tuple[int, int], layer: str) -> None:
        if self.group_size is None or shape[1] % self.group_size == 0:
            return
        fitting = [size for size in (16, 32, 64, 128, 256) if shape[1] % size == 0]
        if not fitting:
            fitting = [size for size in range(2, min(shape[1], 257)) if shape[1] % size == 0][-3:]
        raise RecipeError(
            f"group_size={self.group_size} does not divide in_features={shape[1]} of {layer}; "
            f"choose {_either(fitting)}, or add a rule for this layer"
        )

    def parameters(self, minimum: Any, maximum: Any) -> tuple[Any, Any | None]:
        """Scales (float32 values representable in ``scale_dtype``) and zero points for ranges of values.

        Args:
            minimum, maximum: float32 arrays of one shape, the smallest and largest weight of each group.

        Returns:
            scales, and zero points as integer-valued float32 of the same shape (None when symmetric).
        """
        xp = array_namespace(minimum)
        low, high = self.code_range
        if self.symmetric:
            scales = xp.maximum(xp.abs(minimum), xp.abs(maximum)) / ((high - low) / 2)
            return self._storable(scales), None
        minimum, maximum = xp.minimum(minimum, xp.zeros_like(minimum)), xp.maximum(maximum, xp.zeros_like(maximum))
        scales = self._storable((maximum - minimum) / (high - low))
        return scales, xp.clip(xp.round(low - minimum / scales), low, high)

    def _storable(self, scales: Any) -> Any:
        rounded = round_to(scales, self.scale_dtype)
        xp = array_namespace(rounded)
        return xp.where(rounded < SMALLEST_SCALE, xp.ones_like(rounded), rounded)

    def quantize(self, weight: Any, scales: Any, zero_points: Any | None) -> Any:
        """Codes, as integer-valued float32, of ``weight`` under scales that broadcast against it. Ties to even."""
        xp = array_namespace(weight)
        low, high = self.code_range
        codes = xp.round(weight / scales)
        if zero_points is not None:
            codes = codes + zero_points
        return xp.clip(codes, low, high)

    def grouped(self, weight: Any) -> Any:
        """View a (out, in) weight as (rows, groups, length), one scale per [row, group]."""
        out_features, in_features = weight.shape
        if self.granularity == "tensor":
            return weight.reshape(1, 1, out_features * in_features)
        length = self.group_length(in_features)
        return weight.reshape(out_features, in_features // length, length)

    def encode(self, weight: Array) -> StoredWeight:
        """Round to nearest under the scales of each group's range; ``weight`` is of any dtype that weights have."""
        rows, columns = (1, weight.size) if self.granularity == "tensor" else weight.shape
        rounded = kernels.round_weights(
            np.ascontiguousarray(weight).reshape(rows, columns),
            bits=self.bits,
            group_size=self.group_length(columns),
            symmetric=self.symmetric,
            scale_dtype=self.scale_dtype,
        )
        tensors: dict[str, Array] = {"codes": rounded.codes.reshape(weight.shape), "scales": rounded.scales}
        if rounded.zero_points is not None:
            tensors["zero_points"] = rounded.zero_points
        return StoredWeight(format=self, shape=(weight.shape[0], weight.shape[1]), tensors=tensors)

    def store(self, codes: Any, scales: Any, zero_points: Any | None) -> StoredWeight:
        """Assemble a stored weight from integer-valued codes (out, in), scales and zero points (rows, groups)."""
        tensors: dict[str, Array] = {
            "codes": _host(codes).astype(np.int8),
            "scales": _host(scales).astype(FLOAT_DTYPES[self.scale_dtype]),
        }
        if zero_points is not None:
            tensors["zero_points"] = _host(zero_points).astype(np.int8)
        return StoredWeight(format=self, shape=(codes.shape[0], codes.shape[1]), tensors=tensors)

    def decode(self, stored: StoredWeight) -> Array:
        codes, scales, zero_points = _parts(stored.tensors)
        grouped = self.grouped(codes.astype(np.float32))
        if zero_points is not None:
            grouped = grouped - zero_points.astype(np.float32)[:, :, None]
        weight: Array = (grouped * scales.astype(np.float32)[:, :, None]).reshape(stored.shape)
        return weight

    def nbytes(self, shape: tuple[int, int]) -> int:
        out_features, in_features = shape
        rows = 1 if self.granularity == "tensor" else out_features
        groups = in_features // self.group_length(in_features) if self.granularity == "group" else 1
        code_bytes = out_features * (-(-in_features * self.bits // 32)) * 4  # rows padded to 32-bit words
        scale_bytes = rows * groups * FLOAT_DTYPES[self.scale_dtype].itemsize
        zero_bytes = 0 if self.symmetric else groups * (-(-rows * self.bits // 32)) * 4
        return code_bytes + scale_bytes + zero_bytes

    def prepare(self, stored: StoredWeight, compute: Compute) -> kernels.LinearHandle:
        check_compute(compute, ("float32", "bfloat16", "int8", "int8_token"), self.name)
        codes, scales, zero_points = _parts(stored.tensors)
        out_features, in_features = stored.shape
        rows = (out_features, scales.shape[1])
        return kernels.prepare_int_group(
            codes,
            np.ascontiguousarray(np.broadcast_to(scales, rows)),
            None if zero_points is None else np.ascontiguousarray(np.broadcast_to(zero_points, rows)),
            bits=self.bits,
            group_size=self.group_length(in_features),
            compute=compute,
        )


def round_to(values: Any, dtype: FloatName) -> Any:
    """Round float32 values to what ``dtype`` can hold, returned as float32 (numpy or torch)."""
    if dtype == "float32":
        return values
    if is_torch_array(values):
        import torch

        return values.to(getattr(torch, dtype)).to(torch.float32)
    return np.asarray(values).astype(FLOAT_DTYPES[dtype]).astype(np.float32)


def _host(values: Any) -> Array:
    return values.cpu().numpy() if is_torch_array(values) else np.asarray(values)


def _parts(tensors: Mapping[str, Array]) -> tuple[Array, Array, Array | None]:
    return tensors["codes"], tensors["scales"], tensors.get("zero_points")


def _either(sizes: list[int]) -> str:
    if not sizes:
        return "granularity 'channel'"
    return str(sizes[0]) if len(sizes) == 1 else f"{', '.join(map(str, sizes[:-1]))} or {sizes[-1]}"
