"""Weights packed for the kernels of this CPU: what the native backend holds in memory.

The linears of a group read the same input; where they are stored alike they are packed as one, so that a group is
one kernel call. It does not know the forward pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from flyweight import kernels
from flyweight.checkpoint.weights import Weights
from flyweight.formats.base import Array, Compute, Format, StoredWeight
from flyweight.formats.int_group import IntGroup
from flyweight.formats.plain import Plain
from flyweight.models.spec import BlockSpec, LinearGroup, LinearSpec, ModelSpec

ModelCompute = Literal["auto", "float32", "bfloat16", "int8"]


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

    ``embedding`` (vocab_size, hidden_size) stays mapped in the dtype it is stored in; rows are read as needed.
    """

    groups: Mapping[str, PreparedGroup]
    norms: Mapping[str, Array]
    embedding: Array

    @classmethod
    def prepare(
        cls, spec: ModelSpec, weights: Weights, compute: ModelCompute, advance: Callable[[], None] = lambda: None
    ) -> Self:
        """Read and pack every weight, a block at a time; ``advance`` is called after each.

        Raises:
            CheckpointError: when a tensor cannot be read.
        """
        base = base_compute(spec, weights, compute)
        groups: dict[str, PreparedGroup] = {}
        norms: dict[str, Array] = {}
        for block in spec.blocks:
            for group in block.groups:
                groups[group.linears[0].name] = _prepare_group(
                    [
                        (weights.linear(linear), weights.bias(linear), linear_compute(linear, weights, compute, base))
                        for linear in group.linears
                    ]
                )
            norms.update({norm.name: weights.norm(norm) for norm in block.norms})
            advance()
        norms[spec.final_norm.name] = weights.norm(spec.final_norm)
        groups[spec.head.linears[0].name] = _prepare_head(spec.head, spec, weights, compute, base)
        advance()
        return cls(groups=groups, norms=norms, embedding=weights.embedding(spec.embedding))

    @property
    def nbytes(self) -> int:
        """Bytes of the packed linears; not the mapped embedding."""
        return sum(group.nbytes for group in self.groups.values())


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


def _prepare_head(
    head: LinearGroup, spec: ModelSpec, weights: Weights, compute: ModelCompute, base: Literal["float32", "bfloat16"]
) -> PreparedGroup:
    linear = head.linears[0]
    chosen = base if spec.is_tied else linear_compute(linear, weights, compute, base)
    return _prepare_group([(weights.head(spec), weights.bias(linear), chosen)])
