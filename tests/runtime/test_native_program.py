"""A step as one native call: the bits of its twin that calls one operation after another, and what it refuses."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.safetensors_file import SafetensorsFile, StoredTensor, write_safetensors
from flyweight.checkpoint.weights import Weights
from flyweight.errors import KernelError
from flyweight.formats import Format, IntGroup, Plain
from flyweight.kernels import KV_DTYPES
from flyweight.models import read_spec
from flyweight.models.spec import ModelSpec
from flyweight.runtime.batch import Batch
from flyweight.runtime.kv_cache import KVCache
from flyweight.runtime.native_ops import NativeOps, PreparedWeights
from flyweight.runtime.native_program import NativeRuntime
from flyweight.runtime.runner import OpByOp, Runner
from flyweight.runtime.sequences import CachedSequence, SequencePlanner
from tests.support.checkpoints import write_tiny_llama
from tests.support.compressed import compress_rtn

PROMPTS = [[5, 9, 17, 33, 65, 100, 3], [77], [12, 13, 14]]
FORMATS: dict[str, Callable[[str], Format]] = {
    "int4": lambda name: IntGroup(bits=4, group_size=32),
    "int8-asymmetric": lambda name: IntGroup(bits=8, granularity="channel", group_size=None, symmetric=False),
    # The linears of a group stored unlike one another are several calls on one input.
    "mixed": lambda name: (
        IntGroup(bits=4, group_size=32) if "q_proj" in name or "up" in name else Plain(dtype="bfloat16")
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(path, num_layers=3, tied=False, dtype="bfloat16")
    return path


def prepare(folder: Path, compute: Any) -> tuple[ModelSpec, PreparedWeights]:
    checkpoint = Checkpoint.open(folder)
    spec = read_spec(checkpoint.config)
    return spec, PreparedWeights.prepare(spec, Weights.open(checkpoint, spec), compute)


def run(spec: ModelSpec, make: Callable[[KVCache], Runner], dtype: Any = "float32") -> list[np.ndarray]:
    """Logits of three sequences: their prompts in one batch, then a token for each, then a chunk beside a token."""
    cache = KVCache(spec.blocks, num_blocks=8, dtype=dtype)
    runner, planner = make(cache), SequencePlanner.of(cache)
    sequences = [CachedSequence() for _ in PROMPTS]
    steps = [
        planner.plan(sequences, PROMPTS, all_logits=True),
        planner.plan(sequences, [[1], [2], [3]]),
        planner.plan(sequences[:2], [[4], [5, 6, 7]]),
    ]
    return [runner.forward(batch) for batch in steps]


def same_bits(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("compute", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("form", FORMATS)
def test_quantized_weights_give_the_bits_of_op_by_op(folder: Path, tmp_path: Path, form: str, compute: str) -> None:
    compress_rtn(folder, tmp_path / "out", FORMATS[form])
    spec, weights = prepare(tmp_path / "out", compute)
    by_op = run(spec, lambda cache: OpByOp(spec, NativeOps(weights, cache)))
    same_bits(run(spec, lambda cache: NativeRuntime(spec, weights, cache)), by_op)


@pytest.mark.parametrize("dtype", KV_DTYPES)
def test_every_cache_type_gives_the_bits_of_op_by_op(folder: Path, dtype: str) -> None:
    spec, weights = prepare(folder, "float32")
    by_op = run(spec, lambda cache: OpByOp(spec, NativeOps(weights, cache)), dtype)
    same_bits(run(spec, lambda cache: NativeRuntime(spec, weights, cache), dtype), by_op)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_embeddings_of_every_width_from_memory_and_from_a_file(folder: Path, tmp_path: Path, dtype: str) -> None:
    spec, weights = prepare(folder, "float32")
    spec = replace(spec, embedding=replace(spec.embedding, scale=1.7))
    assert isinstance(weights.embedding, StoredTensor)
    table = weights.embedding.rows(range(weights.embedding.shape[0])).astype(dtype)
    write_safetensors(tmp_path / "table.safetensors", {"before": np.zeros(3, np.float32), "table": table})
    stored = SafetensorsFile(tmp_path / "table.safetensors").lazy("table")
    answers = []
    for embedding in (table, stored):
        placed = replace(weights, embedding=embedding)
        by_op = run(spec, lambda cache, placed=placed: OpByOp(spec, NativeOps(placed, cache)))
        answers.append(run(spec, lambda cache, placed=placed: NativeRuntime(spec, placed, cache)))
        same_bits(answers[-1], by_op)
    same_bits(*answers)


def test_an_embedding_whose_file_has_become_shorter_is_an_error(folder: Path, tmp_path: Path) -> None:
    spec, weights = prepare(folder, "float32")
    assert isinstance(weights.embedding, StoredTensor)
    table = weights.embedding.rows(range(weights.embedding.shape[0]))
    write_safetensors(tmp_path / "table.safetensors", {"table": table})
    cache = KVCache(spec.blocks, num_blocks=8)
    stored = SafetensorsFile(tmp_path / "table.safetensors").lazy("table")
    runtime = NativeRuntime(spec, replace(weights, embedding=stored), cache)
    with (tmp_path / "table.safetensors").open("r+b") as file:
        file.truncate(200)
    batch = SequencePlanner.of(cache).plan([CachedSequence() for _ in PROMPTS], PROMPTS)
    with pytest.raises(KernelError, match="become shorter"):
        runtime.forward(batch)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists a process's mappings")
def test_a_run_maps_no_file_of_the_checkpoint(folder: Path) -> None:
    spec, weights = prepare(folder, "float32")
    run(spec, lambda cache: OpByOp(spec, NativeOps(weights, cache)))
    run(spec, lambda cache: NativeRuntime(spec, weights, cache))
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert str(folder) not in mapped


def example(folder: Path) -> tuple[NativeRuntime, Batch]:
    spec, weights = prepare(folder, "float32")
    cache = KVCache(spec.blocks, num_blocks=8)
    batch = SequencePlanner.of(cache).plan([CachedSequence() for _ in PROMPTS], PROMPTS)
    return NativeRuntime(spec, weights, cache), batch


def test_logits_of_hidden_rows_are_those_of_a_whole_step(folder: Path) -> None:
    runtime, batch = example(folder)
    hidden = runtime.hidden(batch)
    np.testing.assert_array_equal(runtime.logits(hidden), runtime.forward(batch))
    np.testing.assert_allclose(runtime.logits(hidden[1:2]), runtime.forward(batch)[1:2], atol=1e-5)


def test_the_profile_covers_every_kind_of_instruction(folder: Path) -> None:
    runtime, batch = example(folder)
    profile = runtime.profile(batch)
    assert set(profile) == {"embed", "heads", "linear", "attend", "add", "actmul", "select"}
    assert all(seconds > 0 for seconds in profile.values())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("token_ids", 128, r"token_ids lie in .*; 0 to 127 is needed: the embedding has that many rows"),
        ("token_ids", -1, "token_ids lie in"),
        ("slots", 256, "slots lie in .*; 0 to 255 is needed"),
        ("block_tables", 8, "block_tables lie in .*; 0 to 7 is needed"),
        ("output_rows", 11, "output_rows lie in .*; 0 to 10 is needed"),
        ("context_lengths", 40, "exceed the 32 slots of a row of block_tables"),
        ("context_lengths", 0, "include the new tokens"),
        ("query_starts", 1, "must rise from 0"),
        ("positions", -1, "rope rows lie in"),
    ],
)
def test_a_step_that_does_not_fit_is_refused_and_nothing_is_written(
    folder: Path, field: str, value: int, said: str
) -> None:
    runtime, batch = example(folder)
    array = getattr(batch, field).copy()
    array.flat[0] = value
    with pytest.raises(KernelError, match=said):
        runtime.forward(replace(batch, **{field: array}))
    assert not any(layer.any() for layer in runtime.cache.layers)


def test_a_wrong_dtype_is_refused(folder: Path) -> None:
    runtime, batch = example(folder)
    with pytest.raises(KernelError, match="token_ids has dtype int64; int32 is needed"):
        runtime.forward(replace(batch, token_ids=batch.token_ids.astype(np.int64)))
