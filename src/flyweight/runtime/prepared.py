"""Weights packed for the kernels of this CPU: what the native backend holds in memory.

The linears of a group read the same input; where they are stored alike they are packed as one, so that a group is
one kernel call. It does not know the forward pass.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal, Self

import numpy as np

from flyweight import kernels
from flyweight.checkpoint.safetensors_file import StoredTensor
from flyweight.checkpoint.weights import Weights
from flyweight.errors import IntegrityError, UsageError
from flyweight.formats.base import Array, Compute, Format, StoredWeight
from flyweight.formats.int_group import IntGroup
from flyweight.formats.plain import FLOAT_DTYPES, Plain
from flyweight.models.spec import BlockSpec, LinearGroup, LinearSpec, ModelSpec
from flyweight.runtime.pager import Pager

ModelCompute = Literal["auto", "float32", "bfloat16", "int8"]
HeadChoice = Literal["as-stored", "int8", "int6", "int4"]
HEAD_CHOICES = ("as-stored", "int8", "int6", "int4")
HEAD_CODES: Mapping[HeadChoice, tuple[int, int]] = {"int8": (8, 64), "int6": (6, 32), "int4": (4, 32)}
"""Bits of a rounded head's codes, and how many inputs share a scale at most."""

PIECE_ROWS = 1024  # a multiple of the outputs that any packed panel holds: pieces of so many rows join without a seam
# Of a head that are rounded and packed at once; the system would give much larger arrays fresh pages every time.
PIECE_WEIGHTS = 1 << 21


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedGroup:
    """The handles of one group in order, fused where possible, each with its float32 bias or None."""

    handles: tuple[kernels.LinearHandle, ...]
    biases: tuple[Array | None, ...]

    @property
    def nbytes(self) -> int:
        return sum(handle.nbytes for handle in self.handles)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedBlock:
    """One decoder block. ``groups`` by the name of their first linear, ``norms`` (float32) by their own."""

    groups: Mapping[str, PreparedGroup]
    norms: Mapping[str, Array]

    @classmethod
    def prepare(
        cls,
        block: BlockSpec,
        weights: Mapping[str, StoredWeight],
        biases: Mapping[str, Array | None],
        norms: Mapping[str, Array],
        compute: Compute = "float32",
    ) -> Self:
        """Pack one block.

        Args:
            weights: by linear name; all linears of the block.
            biases: float32 by linear name; absent or None where the linear has none.
            norms: float32 by norm name; all norms of the block.
            compute: activations of every linear; the weights' formats must have it.
        """
        groups = {
            group.linears[0].name: _prepare_group(
                [(weights[linear.name], biases.get(linear.name), compute) for linear in group.linears]
            )
            for group in block.groups
        }
        return cls(groups=groups, norms={norm.name: norms[norm.name] for norm in block.norms})

    @property
    def nbytes(self) -> int:
        return sum(group.nbytes for group in self.groups.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedWeights:
    """A whole model: as :class:`PreparedBlock` for all blocks and the head, and the embedding as stored.

    ``embedding`` (vocab_size, hidden_size) stays in its file in the dtype it is stored in and rows are read as needed,
    or it is an array.
    ``pager`` is there when not all weights may be in memory: it must be told of every handle before its use, and the
    handles must be used in the order of the model.
    """

    groups: Mapping[str, PreparedGroup]
    norms: Mapping[str, Array]
    embedding: Array | StoredTensor
    pager: Pager | None = None

    @classmethod
    def prepare(
        cls, spec: ModelSpec, weights: Weights, compute: ModelCompute, advance: Callable[[], None] = lambda: None
    ) -> Self:
        """Read and pack every weight into memory, a block at a time; ``advance`` is called after each.

        Raises:
            CheckpointError: when a tensor cannot be read.
        """
        return cls.from_packing(Packing(spec=spec, weights=weights, compute=compute), advance)

    @classmethod
    def from_packing(cls, packing: "Packing", advance: Callable[[], None] = lambda: None) -> Self:
        """As :meth:`prepare`, with the choices that ``packing`` holds."""
        spec = packing.spec
        groups: dict[str, PreparedGroup] = {}
        for block in spec.blocks:
            for group in block.groups:
                groups[group.linears[0].name] = packing.pack_group(group)
            advance()
        name = spec.head.linears[0].name
        kind, pieces = packing.pack_head()
        groups[name] = PreparedGroup(handles=(join(kind, pieces),), biases=(packing.head_bias(),))
        advance()
        return cls(groups=groups, norms=packing.norms(), embedding=packing.weights.embedding_rows())

    @property
    def nbytes(self) -> int:
        """Bytes of the packed linears; not the embedding."""
        return sum(group.nbytes for group in self.groups.values())


class Packing:
    """What becomes of every weight of a model, and the packing of each. It holds no weight.

    Args:
        head: how the output head is kept: ``as-stored``, or rounded to ``int8``, ``int6`` or ``int4`` codes while it
            is packed.

    Raises:
        UsageError: when ``head`` is unknown, or asks for a head that is quantized already to be quantized again.
        UnsupportedModelError: when a layer's format has no such compute.
    """

    def __init__(
        self, *, spec: ModelSpec, weights: Weights, compute: ModelCompute, head: HeadChoice = "as-stored"
    ) -> None:
        self.spec = spec
        self.weights = weights
        self._compute = compute
        self._base = base_compute(spec, weights, compute)
        self._head_encoding = head_encoding(spec, weights, head)

    def linear_compute(self, linear: LinearSpec) -> Compute:
        """What a linear layer of a block computes in."""
        return linear_compute(linear, self.weights, self._compute, self._base)

    @property
    def head_format(self) -> Format:
        """How the head is kept in memory."""
        return self._head_encoding or self.weights.head_format(self.spec)

    @property
    def head_compute(self) -> Compute:
        """What the head computes in."""
        if self._head_encoding is not None or (self.spec.is_tied and isinstance(self.head_format, IntGroup)):
            return "int8" if self._compute == "int8" else self._base
        if self.spec.is_tied:
            return self._base
        return self.linear_compute(self.spec.head.linears[0])

    def choices(self) -> list[list[str]]:
        """Name, format and compute of every linear layer: with the content, what packed bytes depend on."""
        rows = [[one.name, repr(self.weights.format(one)), self.linear_compute(one)] for one in self.spec.linears]
        return [*rows, [self.spec.head.linears[0].name, repr(self.head_format), self.head_compute]]

    @property
    def expected_bytes(self) -> int:
        """About what the packed linears take, told without reading any."""
        formats = [(self.weights.format(one), one.out_features, one.in_features) for one in self.spec.linears]
        formats.append((self.head_format, self.spec.vocab_size, self.spec.hidden_size))
        total = 0
        for form, rows, columns in formats:
            if isinstance(form, IntGroup):
                groups = rows * (columns // form.group_length(columns))
                total += rows * columns * kernels.packed_bits(form.bits) // 8
                total += groups * (FLOAT_DTYPES[form.scale_dtype].itemsize + (0 if form.symmetric else 2))
            else:
                total += rows * columns * (2 if self._base == "bfloat16" else form.nbytes((1, 1)))
        return total

    def pack_group(self, group: LinearGroup) -> PreparedGroup:
        """Read and pack the linears of one group."""
        weights = self.weights
        return _prepare_group(
            [(weights.linear(linear), weights.bias(linear), self.linear_compute(linear)) for linear in group.linears]
        )

    def pack_head(self) -> tuple[kernels.PackedKind, Iterator[kernels.LinearHandle]]:
        """What the head makes when it is packed, and its pieces of consecutive outputs, one after another."""
        pieces = self._head_pieces()
        first = next(pieces)
        return replace(kernels.packed_kind(first), out_features=self.spec.vocab_size), chain([first], pieces)

    def head_bias(self) -> Array | None:
        return self.weights.bias(self.spec.head.linears[0])

    def norms(self) -> dict[str, Array]:
        """All norms of the model, float32, by name."""
        return {norm.name: self.weights.norm(norm) for norm in self.spec.norms}

    def _head_pieces(self) -> Iterator[kernels.LinearHandle]:
        rows = max(1, PIECE_WEIGHTS // self.spec.hidden_size // PIECE_ROWS) * PIECE_ROWS
        for start in range(0, self.spec.vocab_size, rows):
            stored = self.weights.head_rows(self.spec, start, min(start + rows, self.spec.vocab_size))
            if self._head_encoding is not None:
                stored = self._head_encoding.encode(stored.tensors["weight"])
            yield stored.prepare(self.head_compute)


def head_encoding(spec: ModelSpec, weights: Weights, head: HeadChoice) -> IntGroup | None:
    """The format that the head is rounded to while it is packed; None where it stays as stored.

    ``HEAD_CODES`` says how many inputs share a scale, which is kept in bfloat16.
    """
    if head not in HEAD_CHOICES:
        raise UsageError(f"head={head!r} is unknown; choose {', '.join(HEAD_CHOICES)}")
    if head == "as-stored":
        return None
    stored = weights.head_format(spec)
    if not isinstance(stored, Plain):
        raise UsageError(f"head={head!r} was asked for, but the checkpoint stores it as {stored.name}; leave head out")
    bits, largest = HEAD_CODES[head]
    size = next((size for size in (64, 32, 16, 8) if size <= largest and spec.hidden_size % size == 0), None)
    if size is None:
        raise UsageError(
            f"head={head!r} needs a hidden size that 8 divides; this model has {spec.hidden_size}; leave head out"
        )
    return IntGroup(bits=bits, group_size=size)


def join(kind: kernels.PackedKind, pieces: Iterable[kernels.LinearHandle]) -> kernels.LinearHandle:
    """One handle, in memory, from pieces of consecutive outputs; each but the last has a multiple of ``PIECE_ROWS``."""
    parts = tuple(_aligned(nbytes) for nbytes in kind.part_bytes)
    written = [0] * len(parts)
    for piece in pieces:
        if kernels.packed_kind(piece) == kind:
            return piece
        for index, part in enumerate(kernels.packed_parts(piece)):
            parts[index][written[index] : written[index] + len(part)] = part
            written[index] += len(part)
    if tuple(written) != kind.part_bytes:
        raise IntegrityError(f"{written} bytes of packed parts were written of {kind.part_bytes}")
    return kernels.view_packed(kind, parts)


def _aligned(nbytes: int) -> Array:
    """Fresh bytes on the boundary of a page, on huge pages where the system has them."""
    if nbytes == 0:
        return np.empty(0, np.uint8)
    memory = mmap.mmap(-1, nbytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def base_compute(spec: ModelSpec, weights: Weights, compute: ModelCompute) -> Literal["float32", "bfloat16"]:
    """What layers without int8 activations compute in: ``auto`` means float32 for models stored so entirely, else
    bfloat16; with ``int8``, plain layers compute in bfloat16."""
    if compute != "auto":
        return "float32" if compute == "float32" else "bfloat16"
    formats = [*(weights.format(linear) for linear in spec.linears), weights.head_format(spec)]
    return "float32" if all(one == Plain(dtype="float32") for one in formats) else "bfloat16"


def linear_compute(
    linear: LinearSpec, weights: Weights, compute: ModelCompute, base: Literal["float32", "bfloat16"]
) -> Compute:
    """What one linear computes in: int8 for integer weights when asked for; int8 with one scale per token, under
    ``auto``, where the checkpoint says that this layer's inputs are quantized so."""
    if not isinstance(weights.format(linear), IntGroup):
        return base
    if compute == "auto" and weights.activations(linear) == "int8":
        return "int8_token"
    return "int8" if compute == "int8" else base


def fuse(stored: list[StoredWeight]) -> StoredWeight | None:
    """Weights of one format stacked into one along the outputs; None where their formats differ."""
    first = stored[0].format
    if any(one.format != first for one in stored):
        return None
    form: Format = first
    parts = [dict(one.tensors) for one in stored]
    if isinstance(first, IntGroup) and first.granularity == "tensor":
        # One scale for each of several weights is one scale per channel of the whole.
        form = replace(first, granularity="channel")
        for part, one in zip(parts, stored, strict=True):
            part.update({name: np.repeat(part[name], one.shape[0], axis=0) for name in part if name != "codes"})
    tensors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = sum(one.shape[0] for one in stored)
    return StoredWeight(format=form, shape=(rows, stored[0].shape[1]), tensors=tensors)


def _prepare_group(members: list[tuple[StoredWeight, Array | None, Compute]]) -> PreparedGroup:
    """Pack the (weight, bias, compute) of a group's linears, as one where format and compute are the same."""
    computes = {compute for _, _, compute in members}
    whole = fuse([stored for stored, _, _ in members]) if len(members) > 1 and len(computes) == 1 else None
    if whole is None:
        return PreparedGroup(
            handles=tuple(stored.prepare(compute) for stored, _, compute in members),
            biases=tuple(bias for _, bias, _ in members),
        )
    bias = None
    if any(one is not None for _, one, _ in members):
        bias = np.concatenate(
            [np.zeros(stored.shape[0], np.float32) if one is None else one for stored, one, _ in members]
        )
    return PreparedGroup(handles=(whole.prepare(computes.pop()),), biases=(bias,))
