"""The bytes of packed weights: taken out of a handle to be kept, and made a handle again without being copied.

What the bytes mean is the native layout's business; here they are opaque. It knows no files.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.checks import choose

Bytes = NDArray[np.uint8]

LAYOUT_VERSION: int = _native.layout_version
"""Changes whenever packed bytes change their meaning; bytes packed under another number must be packed again."""

LAYOUT_CLASS = "panels"
"""Which processors share packed bytes. There is one class: the same layout serves every instruction set."""

ALIGNMENT = 64
FLOAT_STORAGES = ("float32", "float16", "bfloat16")
STORAGES = {name: getattr(_native.Storage, name) for name in (*FLOAT_STORAGES, "uint4", "uint6", "uint8")}
COMPUTES = {name: getattr(_native.Compute, name) for name in ("float32", "bfloat16", "int8")}
PARTS = ("values", "scales", "zero_points")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedKind:
    """What a packed weight is, apart from its numbers: its layout and the lengths of its parts follow from this.

    ``storage`` is how an element is kept (``float32``, ``float16``, ``bfloat16``, ``uint8``, ``uint6``, ``uint4``),
    ``compute`` what its kernel computes in (``float32``, ``bfloat16``, ``int8``). ``group_size`` inputs share a weight
    scale and ``activation_group`` inputs a scale of their own when compute is int8; both are in_features where there
    are none. ``scale_storage`` is how a weight scale is kept (the first three; ``float32`` where there are none).
    """

    storage: str
    compute: str
    out_features: int
    in_features: int
    group_size: int
    activation_group: int
    scale_storage: str
    has_zero_points: bool

    def __post_init__(self) -> None:
        choose("storage", self.storage, STORAGES)
        choose("scale_storage", self.scale_storage, {name: STORAGES[name] for name in FLOAT_STORAGES})
        choose("compute", self.compute, COMPUTES)
        sizes = (self.out_features, self.in_features, self.group_size, self.activation_group)
        if any(type(size) is not int or not 1 <= size < 1 << 31 for size in sizes):
            raise KernelError(f"sizes {sizes} are not those of a packed weight; each must be a positive whole number")
        if self.in_features % self.group_size:
            raise KernelError(f"group_size={self.group_size} does not divide in_features={self.in_features}")
        if type(self.has_zero_points) is not bool:
            raise KernelError(f"has_zero_points={self.has_zero_points!r} must be true or false")

    @property
    def part_bytes(self) -> tuple[int, ...]:
        """Bytes of each of ``PARTS``; 0 where this kind has no such part."""
        return tuple(_native.part_bytes(_native_kind(self)))

    @property
    def nbytes(self) -> int:
        return sum(self.part_bytes)


def packed_bits(bits: int) -> int:
    """Bits that a code of so many takes in memory: 4, 6 or 8."""
    return 4 if bits <= 4 else 6 if bits <= 6 else 8


def packed_kind(handle: _native.LinearHandle) -> PackedKind:
    """What a handle holds."""
    storage, compute, out_features, in_features, group_size, activation_group, scales, has_zero_points = handle.kind
    return PackedKind(
        storage=_name(STORAGES, storage),
        compute=_name(COMPUTES, compute),
        out_features=out_features,
        in_features=in_features,
        group_size=group_size,
        activation_group=activation_group,
        scale_storage=_name(STORAGES, scales),
        has_zero_points=has_zero_points,
    )


def packed_parts(handle: _native.LinearHandle) -> tuple[Bytes, ...]:
    """The packed bytes of each of ``PARTS``, as read-only views that keep the handle alive."""
    return tuple(_native.linear_parts(handle))


def view_packed(kind: PackedKind, parts: tuple[Bytes, ...]) -> _native.LinearHandle:
    """A handle over bytes that :func:`packed_parts` gave under this ``LAYOUT_VERSION``; nothing is copied.

    Args:
        parts: uint8, ``kind.part_bytes`` long, each beginning on a boundary of 64 bytes where it is not empty; they
            stay alive as long as the handle.

    Raises:
        KernelError: a wrong number, length or place of the parts.
    """
    if len(parts) != len(PARTS):
        raise KernelError(f"{len(parts)} parts were given; a packed weight has {len(PARTS)}: {', '.join(PARTS)}")
    for name, part, nbytes in zip(PARTS, parts, kind.part_bytes, strict=True):
        if part.dtype != np.uint8 or part.shape != (nbytes,) or not part.flags.c_contiguous:
            raise KernelError(f"{name} must be {nbytes} contiguous bytes; it is {part.dtype} {part.shape}")
        if nbytes and part.ctypes.data % ALIGNMENT:
            raise KernelError(f"{name} must begin at a multiple of {ALIGNMENT} bytes")
    return _native.view_linear(_native_kind(kind), *parts)


def _native_kind(kind: PackedKind) -> tuple[Any, ...]:
    return (
        STORAGES[kind.storage],
        COMPUTES[kind.compute],
        kind.out_features,
        kind.in_features,
        kind.group_size,
        kind.activation_group,
        STORAGES[kind.scale_storage],
        kind.has_zero_points,
    )


def _name(names: dict[str, Any], value: object) -> str:
    return next(name for name, one in names.items() if one == value)
