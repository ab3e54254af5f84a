"""The decoder's walk: what it calls in which order, and that looking on changes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.weights import Weights
from flyweight.models import read_spec
from flyweight.models.spec import LinearGroup, ModelSpec
from flyweight.runtime.decoder import run_blocks, run_head, run_model
from flyweight.runtime.kv_cache import KVCache
from flyweight.runtime.native_ops import NativeOps, PreparedWeights
from flyweight.runtime.observing import Observing
from flyweight.runtime.sequences import CachedSequence, SequencePlanner
from tests.support.checkpoints import write_tiny_llama

TOKENS = [5, 9, 17, 33, 65, 100]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSpec, PreparedWeights]:
    folder: Path = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(folder, num_layers=3)
    checkpoint = Checkpoint.open(folder)
    spec = read_spec(checkpoint.config)
    return spec, PreparedWeights.prepare(spec, Weights.open(checkpoint, spec), "float32")


def run(model: tuple[ModelSpec, PreparedWeights], tokens: list[int], wrap: Any = lambda ops: ops) -> Any:
    spec, weights = model
    cache = KVCache(spec.blocks, num_blocks=4)
    batch = SequencePlanner.of(cache).plan([CachedSequence()], [tokens], all_logits=True)
    return run_model(spec, wrap(NativeOps(weights, cache)), batch)


def test_observing_sees_every_group_once_in_order_and_changes_nothing(model: tuple[ModelSpec, PreparedWeights]) -> None:
    seen: list[tuple[LinearGroup, Any]] = []
    watched = run(model, TOKENS, lambda ops: Observing(ops, lambda group, x: seen.append((group, x.copy()))))
    np.testing.assert_array_equal(watched, run(model, TOKENS))
    spec = model[0]
    assert [group for group, _ in seen] == [*(group for block in spec.blocks for group in block.groups), spec.head]
    assert all(x.shape == (len(TOKENS), group.in_features) for group, x in seen)


def test_no_token_sees_a_later_one(model: tuple[ModelSpec, PreparedWeights]) -> None:
    changed = [*TOKENS[:3], 99, *TOKENS[4:]]
    before, after = run(model, TOKENS), run(model, changed)
    np.testing.assert_allclose(after[:3], before[:3], atol=1e-5)
    assert (np.abs(after[3:] - before[3:]).max(axis=1) > 0.01).all()


def test_sequences_side_by_side_do_not_see_each_other(model: tuple[ModelSpec, PreparedWeights]) -> None:
    spec, weights = model
    cache = KVCache(spec.blocks, num_blocks=8)
    prompts = [TOKENS[:4] * 10, [77], TOKENS[1:] * 7]
    batch = SequencePlanner.of(cache).plan([CachedSequence() for _ in prompts], prompts, all_logits=True)
    together = np.split(run_model(spec, NativeOps(weights, cache), batch), batch.query_starts[1:-1])
    for prompt, logits in zip(prompts, together, strict=True):
        np.testing.assert_allclose(logits, run(model, prompt), atol=1e-5)


def test_any_cutting_of_a_sequence_gives_the_same_logits(model: tuple[ModelSpec, PreparedWeights]) -> None:
    spec, weights = model
    tokens = TOKENS * 6
    expected = run(model, tokens)
    for cuts in ([1] * 36, [2, 4, 30], [5, 27, 1, 3]):
        cache = KVCache(spec.blocks, num_blocks=4)
        ops, planner, sequence = NativeOps(weights, cache), SequencePlanner.of(cache), CachedSequence()
        start, rows = 0, []
        for count in cuts:
            batch = planner.plan([sequence], [tokens[start : start + count]], all_logits=True)
            rows.append(run_model(spec, ops, batch))
            start += count
        np.testing.assert_allclose(np.concatenate(rows), expected, atol=1e-5)


def test_only_the_rows_that_are_wanted_reach_the_head(model: tuple[ModelSpec, PreparedWeights]) -> None:
    spec, weights = model
    cache = KVCache(spec.blocks, num_blocks=4)
    ops = NativeOps(weights, cache)
    x = run_blocks(spec, ops, SequencePlanner.of(cache).plan([CachedSequence()], [TOKENS]))
    assert x.shape == (1, spec.hidden_size)
    np.testing.assert_allclose(run_head(spec, ops, x), run(model, TOKENS)[-1:], atol=1e-5)
