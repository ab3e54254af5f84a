"""Compress a checkpoint's linear layers round-to-nearest and write it as compressed-tensors, for tests."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from flyweight.checkpoint.compressed_tensors import linear_tensors, quantization_config
from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.layouts import Activations
from flyweight.checkpoint.weights import Weights
from flyweight.checkpoint.writer import CheckpointWriter
from flyweight.formats import Array, Format, IntGroup, StoredWeight
from flyweight.models import read_spec

SPLIT_IN_TWO = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def compress_rtn(
    source: Path, target: Path, choose: Callable[[str], Format], *, activations: Activations = "float"
) -> Mapping[str, StoredWeight]:
    """Write ``source`` to ``target`` with every linear layer in the format chosen by its name; what was stored."""
    checkpoint = Checkpoint.open(source)
    spec = read_spec(checkpoint.config)
    weights = Weights.open(checkpoint, spec)
    stored = {linear.name: choose(linear.name).encode(weights.linear(linear).decode()) for linear in spec.linears}
    kinds: dict[str, Activations] = {
        name: activations for name, weight in stored.items() if isinstance(weight.format, IntGroup)
    }
    compressed: dict[str, Array] = {}
    for name, weight in stored.items():
        compressed |= linear_tensors(name, weight, activations=kinds.get(name, "float"))
    writer = CheckpointWriter(target)
    writer.write_shard(SPLIT_IN_TWO[0], compressed)
    rest = [name for name in checkpoint.names if name.removesuffix(".weight") not in stored]
    writer.write_shard(SPLIT_IN_TWO[1], {name: checkpoint.lazy(name) for name in rest})
    formats = {name: weight.format for name, weight in stored.items()}
    quantization = quantization_config(formats, activations=kinds)
    writer.finish({**checkpoint.config, "quantization_config": quantization}, copied_from=checkpoint)
    return stored


def per_token_int8(x: Array) -> Array:
    """What dynamic symmetric 8-bit quantization per token leaves of activations (tokens, features)."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / 127.5
    return np.asarray(np.clip(np.round(x / scale), -128, 127) * scale)
