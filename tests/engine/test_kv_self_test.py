"""A narrow KV cache is tried on the model before it is used."""

import logging
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.weights import Weights
from flyweight.engine.kv_self_test import TESTED, run_kv_self_test, self_test_tokens
from flyweight.engine.load import load
from flyweight.errors import UsageError
from flyweight.models import read_spec
from flyweight.models.spec import ModelSpec
from flyweight.runtime.prepared import PreparedWeights
from tests.support.checkpoints import write_tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(made, num_layers=2)
    return made


def opened(folder: Path) -> tuple[ModelSpec, PreparedWeights]:
    checkpoint = Checkpoint.open(folder)
    spec = read_spec(checkpoint.config)
    return spec, PreparedWeights.prepare(spec, Weights.open(checkpoint, spec), "float32")


def test_fewer_bits_cost_more(folder: Path) -> None:
    spec, weights = opened(folder)
    tokens = self_test_tokens(spec, None)
    cost = [run_kv_self_test(spec, weights, dtype, tokens, 9.0).mean_kl for dtype in ("float32", *TESTED)]
    assert cost[0] == 0.0
    assert 0 < cost[1] < cost[2] / 2 < cost[3] / 20, cost


def test_what_it_found_is_said_when_the_model_is_loaded(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="flyweight"):
        model = load(folder, cache_tokens=64, kv_dtype="int8")
    (said,) = [line for line in model.description if line.startswith("KV cache int8 against float32: mean KL ")]
    assert said in [record.getMessage() for record in caplog.records]
    other = load(folder, cache_tokens=64, kv_dtype="bfloat16")
    assert not any("mean KL" in line for line in other.description)


def test_a_cache_that_spoils_the_model_is_refused(folder: Path, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, num_layers=2)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    for name in tensors:
        for projection, factor in (("k_proj", 1e7), ("q_proj", 1e-7)):  # the same scores, keys beyond float16
            if projection in name:
                tensors[name] = tensors[name] * np.float32(factor)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"kv_dtype='float16' spoils this model: .* KL nan .*'bfloat16'"):
        load(tmp_path, cache_tokens=64, kv_dtype="float16", kv_most_kl=0.5)
    with pytest.raises(UsageError, match="and kv_most_kl=1e-09 is allowed"):
        load(folder, cache_tokens=64, kv_dtype="int4", kv_most_kl=1e-9)


def test_auto_follows_the_compute(folder: Path) -> None:
    for compute, expected in (("float32", "float32"), ("bfloat16", "bfloat16")):
        description = load(folder, compute=compute, cache_tokens=64).description  # type: ignore[arg-type]
        assert any(line.startswith(f"KV cache {expected}, 64 tokens") for line in description)
