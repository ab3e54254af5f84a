"""What a checkpoint is and how each of its layers is stored, from config and headers alone: no weight is read.

It does not run the model.
"""

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.weights import Weights
from flyweight.formats.base import Format
from flyweight.formats.plain import Plain, float_name
from flyweight.models import read_spec
from flyweight.models.spec import BlockSpec, ModelSpec, RopeSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerFacts:
    """One stored weight matrix: ``stored_bytes`` holds scales and zero points too."""

    name: str
    format: str
    out_features: int
    in_features: int
    stored_bytes: int
    bits_per_weight: float
    activations: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionFacts:
    """Attention of the ``blocks`` (by index) that share it; ``window`` and ``softcap`` 0 mean none."""

    blocks: tuple[int, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int
    softcap: float
    rope: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """A checkpoint as data.

    ``linear_bytes``, ``bits_per_weight`` and ``formats`` (name to number of layers) are over the blocks' linear layers;
    ``weight_bytes`` is all tensors on disk; ``kv_values_per_token`` numbers are cached for each token.
    """

    folder: str
    architecture: str
    max_positions: int
    vocab_size: int
    hidden_size: int
    num_blocks: int
    is_tied: bool
    num_weights: int
    weight_bytes: int
    linear_bytes: int
    embedding_bytes: int
    bits_per_weight: float
    formats: dict[str, int]
    kv_values_per_token: int
    layers: tuple[LayerFacts, ...]
    attention: tuple[AttentionFacts, ...]
    unused_tensors: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, allow_nan=False)


def inspect_model(model: str | Path) -> Inspection:
    """Inspect a checkpoint: a folder or a hub id.

    Raises:
        CheckpointError: for files that are missing or contradict each other.
        UnsupportedModelError: for an architecture or quantization that is not known.
    """
    checkpoint = Checkpoint.open(model)
    spec = read_spec(checkpoint.config)
    return inspect_checkpoint(checkpoint, spec, Weights.open(checkpoint, spec))


def inspect_checkpoint(checkpoint: Checkpoint, spec: ModelSpec, weights: Weights) -> Inspection:
    """The same of what is open already."""
    layers = [
        _layer(
            linear.name, weights.format(linear), (linear.out_features, linear.in_features), weights.activations(linear)
        )
        for linear in spec.linears
    ]
    linear_bytes = sum(layer.stored_bytes for layer in layers)
    num_linear = sum(layer.out_features * layer.in_features for layer in layers)
    formats = dict(Counter(layer.format for layer in layers))
    embedding = weights.embedding(spec.embedding)
    head = spec.head.linears[0]
    head_shape = (head.out_features, head.in_features)
    table = Plain(dtype=float_name(embedding.dtype))
    layers.append(_layer(spec.embedding.name, table, (spec.vocab_size, spec.hidden_size), "float"))
    if not spec.is_tied:
        layers.append(_layer(head.name, weights.head_format(spec), head_shape, weights.activations(head)))
    norms = sum(norm.size for block in spec.blocks for norm in block.norms) + spec.final_norm.size
    biases = sum(linear.out_features for linear in spec.linears if linear.bias)
    kv_values = sum(2 * block.attention.num_kv_heads * block.attention.head_dim for block in spec.blocks)
    return Inspection(
        folder=str(checkpoint.folder),
        architecture=spec.architecture,
        max_positions=spec.max_positions,
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_blocks=len(spec.blocks),
        is_tied=spec.is_tied,
        num_weights=sum(layer.out_features * layer.in_features for layer in layers) + norms + biases,
        weight_bytes=checkpoint.weight_bytes,
        linear_bytes=linear_bytes,
        embedding_bytes=embedding.nbytes,
        bits_per_weight=8 * linear_bytes / num_linear,
        formats=formats,
        kv_values_per_token=kv_values,
        layers=tuple(layers),
        attention=_attention(spec),
        unused_tensors=weights.unused,
    )


def _layer(name: str, stored: Format, shape: tuple[int, int], activations: str) -> LayerFacts:
    stored_bytes = stored.nbytes(shape)
    return LayerFacts(
        name=name,
        format=stored.name,
        out_features=shape[0],
        in_features=shape[1],
        stored_bytes=stored_bytes,
        bits_per_weight=8 * stored_bytes / (shape[0] * shape[1]),
        activations=activations,
    )


def _attention(spec: ModelSpec) -> tuple[AttentionFacts, ...]:
    """One entry per kind of attention; models with alternating windows have two."""
    kinds: dict[Any, list[BlockSpec]] = {}
    for block in spec.blocks:
        one = block.attention
        kinds.setdefault((one.num_heads, one.num_kv_heads, one.head_dim, one.window, one.softcap, one.rope), []).append(
            block
        )
    return tuple(
        AttentionFacts(
            blocks=tuple(block.index for block in blocks),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            window=window,
            softcap=softcap,
            rope=_describe_rope(rope),
        )
        for (heads, kv_heads, head_dim, window, softcap, rope), blocks in kinds.items()
    )


def _describe_rope(rope: RopeSpec | None) -> str:
    if rope is None:
        return "none"
    told = f"{rope.kind}, theta {rope.theta:g}, {rope.rotary_dim} features"
    if rope.kind != "default":
        told += f", factor {rope.factor:g}"
        if rope.original_max_positions:
            told += f" from {rope.original_max_positions} positions"
    return told
