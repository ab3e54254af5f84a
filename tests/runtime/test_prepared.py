"""Packed weights: fused groups compute what their members compute, and each layer in the type that was asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.safetensors_file import StoredTensor
from flyweight.checkpoint.weights import Weights
from flyweight.errors import UsageError
from flyweight.formats import IntGroup, Plain, StoredWeight
from flyweight.models import read_spec
from flyweight.models.spec import BlockSpec, EmbeddingSpec, LinearGroup, LinearSpec
from flyweight.runtime import prepared
from flyweight.runtime.decoder import run_block
from flyweight.runtime.kv_cache import KVCache
from flyweight.runtime.native_ops import NativeOps, PreparedBlock, PreparedWeights
from flyweight.runtime.prepared import base_compute, fuse, linear_compute
from flyweight.runtime.sequences import CachedSequence, SequencePlanner
from tests.support.checkpoints import tiny_llama_config, write_tiny_llama

FORMATS = [
    Plain(dtype="float32"),
    Plain(dtype="bfloat16"),
    IntGroup(bits=4, group_size=32),
    IntGroup(bits=8, granularity="channel", group_size=None, symmetric=False),
    IntGroup(bits=4, granularity="tensor", group_size=None),
    IntGroup(bits=8, granularity="tensor", group_size=None, symmetric=False),
]
SIZES = (24, 8, 16)


def random_members(formats: list[Any], seed: int = 0) -> list[StoredWeight]:
    rng = np.random.default_rng(seed)
    return [
        one.encode(rng.normal(0, 1 + place, (size, 64)).astype(np.float32))
        for place, (one, size) in enumerate(zip(formats, SIZES, strict=True))
    ]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_fused_weights_are_the_weights_one_below_the_other(form: Any) -> None:
    members = random_members([form] * 3)
    whole = fuse(members)
    assert whole is not None
    assert whole.shape == (48, 64)
    np.testing.assert_array_equal(whole.decode(), np.concatenate([one.decode() for one in members]))


def test_unlike_weights_are_not_fused() -> None:
    assert fuse(random_members([FORMATS[0], FORMATS[0], FORMATS[2]])) is None


def tiny_block() -> BlockSpec:
    config = tiny_llama_config(num_layers=3)
    return read_spec({**config, "attention_bias": True}).blocks[1]


def block_parts(block: BlockSpec, formats: list[Any]) -> tuple[dict[str, StoredWeight], dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(3)
    weights = {
        linear.name: formats[place % len(formats)].encode(
            rng.normal(0, 0.2, (linear.out_features, linear.in_features)).astype(np.float32)
        )
        for place, linear in enumerate(block.linears)
    }
    biases = {
        linear.name: rng.normal(0, 1, linear.out_features).astype(np.float32) if linear.bias else None
        for linear in block.linears
    }
    return weights, biases, {norm.name: rng.uniform(0.5, 1.5, norm.size).astype(np.float32) for norm in block.norms}


@pytest.mark.parametrize("formats", [FORMATS[:1], FORMATS[2:3], FORMATS], ids=["plain", "int4", "mixed"])
def test_a_group_computes_what_its_members_do(formats: list[Any]) -> None:
    block = tiny_block()
    weights, biases, norms = block_parts(block, formats)
    packed = PreparedBlock.prepare(block, weights, biases, norms, "float32")
    ops = NativeOps(packed, KVCache([block], num_blocks=4))
    rng = np.random.default_rng(0)
    for group in block.groups:
        x = rng.normal(size=(5, group.in_features)).astype(np.float32)
        expected = [x.astype(np.float64) @ weights[one.name].decode().T.astype(np.float64) for one in group.linears]
        for place, one in enumerate(group.linears):
            if biases[one.name] is not None:
                expected[place] = expected[place] + biases[one.name]
        np.testing.assert_allclose(ops.linear(group, x), np.concatenate(expected, axis=1), atol=2e-4)
    handles = {group.linears[0].name: len(packed.groups[group.linears[0].name].handles) for group in block.groups}
    is_mixed = len(formats) > 1
    assert handles[block.attention.qkv.linears[0].name] == (3 if is_mixed else 1)
    assert packed.nbytes > 0


def test_a_fused_group_with_one_bias_gives_the_others_none() -> None:
    block = tiny_block()
    weights, biases, norms = block_parts(block, FORMATS[:1])
    first, second, third = (linear.name for linear in block.attention.qkv.linears)
    biases[first] = biases[third] = None
    ops = NativeOps(PreparedBlock.prepare(block, weights, biases, norms), KVCache([block], num_blocks=4))
    zero = ops.linear(block.attention.qkv, np.zeros((1, 64), np.float32))[0]
    np.testing.assert_array_equal(zero, np.concatenate([np.zeros(64), biases[second], np.zeros(32)]))


def test_one_block_runs_alone_as_within_its_model(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, num_layers=3)
    checkpoint = Checkpoint.open(tmp_path)
    spec = read_spec(checkpoint.config)
    weights = Weights.open(checkpoint, spec)
    block = spec.blocks[1]
    alone = PreparedBlock.prepare(
        block,
        {linear.name: weights.linear(linear) for linear in block.linears},
        {},
        {norm.name: weights.norm(norm) for norm in block.norms},
    )
    whole = PreparedWeights.prepare(spec, weights, "float32")
    x = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    outputs = []
    for packed, blocks in ((alone, [block]), (whole, spec.blocks)):
        cache = KVCache(blocks, num_blocks=4)
        batch = SequencePlanner.of(cache).plan([CachedSequence()], [[5] * 6])
        outputs.append(run_block(block, NativeOps(packed, cache), x, batch))
    np.testing.assert_array_equal(*outputs)
    with pytest.raises(UsageError, match="one block alone has no embedding"):
        NativeOps(alone, KVCache([block], num_blocks=4)).embed(spec.embedding, np.array([1], np.int32))


def test_embedding_rows_keep_their_stored_dtype_until_they_are_read(tmp_path: Path) -> None:
    tensors = write_tiny_llama(tmp_path, dtype="bfloat16")
    checkpoint = Checkpoint.open(tmp_path)
    spec = read_spec(checkpoint.config)
    packed = PreparedWeights.prepare(spec, Weights.open(checkpoint, spec), "auto")
    assert packed.embedding.dtype.name == "bfloat16"
    assert isinstance(packed.embedding, StoredTensor)
    ops = NativeOps(packed, KVCache(spec.blocks, num_blocks=1))
    scaled = EmbeddingSpec(name=spec.embedding.name, vocab_size=128, hidden_size=64, scale=2.0)
    rows = ops.embed(scaled, np.array([7, 7, 9], np.int32))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, 2 * tensors["model.embed_tokens.weight"][[7, 7, 9]].astype(np.float32))


class Stored:
    """Formats of layers as ``Weights`` tells them, without files."""

    def __init__(self, formats: dict[str, Any], activations: str = "none") -> None:
        self._formats = formats
        self._activations = activations

    def format(self, linear: LinearSpec) -> Any:
        return self._formats.get(linear.name, Plain(dtype="float32"))

    def head_format(self, spec: Any) -> Any:
        return Plain(dtype="float32")

    def activations(self, linear: LinearSpec) -> str:
        return self._activations


def test_each_layer_computes_in_the_type_asked_for() -> None:
    spec = read_spec(tiny_llama_config())
    plain, packed = spec.linears[0], spec.linears[1]
    as_plain: Any = Stored({})
    mixed: Any = Stored({packed.name: FORMATS[2]})
    asking: Any = Stored({packed.name: FORMATS[2]}, "int8")
    assert base_compute(spec, as_plain, "auto") == "float32"
    assert base_compute(spec, mixed, "auto") == "bfloat16"
    assert base_compute(spec, mixed, "int8") == "bfloat16"
    assert base_compute(spec, mixed, "float32") == "float32"
    assert linear_compute(packed, mixed, "auto", "bfloat16") == "bfloat16"
    assert linear_compute(packed, asking, "auto", "bfloat16") == "int8_token"
    assert linear_compute(packed, asking, "bfloat16", "bfloat16") == "bfloat16"
    assert linear_compute(packed, mixed, "int8", "bfloat16") == "int8"
    assert linear_compute(plain, asking, "int8", "bfloat16") == "bfloat16"


def test_members_of_different_compute_are_packed_apart() -> None:
    members = random_members([FORMATS[2]] * 3)
    apart = prepared._prepare_group(
        [(one, None, compute) for one, compute in zip(members, ("float32", "int8", "float32"), strict=True)]  # type: ignore[misc]
    )
    assert len(apart.handles) == 3
    group = LinearGroup(
        linears=tuple(LinearSpec(name=f"l{i}", in_features=64, out_features=size) for i, size in enumerate(SIZES))
    )
    cache = KVCache([tiny_block()], num_blocks=1)
    ops = NativeOps(PreparedBlock(groups={"l0": apart}, norms={}), cache)
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    expected = np.concatenate([x @ one.decode().T for one in members], axis=1)
    got = ops.linear(group, x)
    np.testing.assert_allclose(got[:, :24], expected[:, :24], atol=1e-4)
    np.testing.assert_allclose(got[:, 24:32], expected[:, 24:32], atol=0.03 * np.abs(expected).max())
    np.testing.assert_allclose(got[:, 32:], expected[:, 32:], atol=1e-4)
