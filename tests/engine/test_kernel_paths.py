"""Every way to compute a real trained model, on every instruction set, stays within stated bounds of float32.

A path and its oracle have the same weights: what is seen is the rounding of inputs and cache, and the order of sums.
``benchmarks/kernel_paths.py`` prints the same as a table, which docs/results/kernels.md keeps.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flyweight
from flyweight import demo_model, kernels
from flyweight.engine.load import load
from flyweight.formats.base import Array

WINDOWS, LENGTH = 1, 128
# Relative rms of the logits and mean KL in nats, about three times what was measured.
BOUNDS = {
    ("float32", "float32"): (3e-5, 1e-6),
    ("bfloat16", "float32"): (0.08, 6e-3),
    ("int8", "float32"): (0.22, 5e-2),
    ("float32", "float16"): (0.03, 1e-3),
    ("float32", "bfloat16"): (0.12, 1e-2),
    ("float32", "int8"): (0.18, 4e-2),
    ("float32", "int4"): (0.5, 0.4),
}


@pytest.fixture(scope="module")
def windows() -> list[list[int]]:
    tokenizer = load(demo_model.model_path()).tokenizer
    ids = tokenizer.encode(demo_model.heldout_path().read_text()[: WINDOWS * LENGTH * 12])
    assert len(ids) >= WINDOWS * LENGTH
    return np.array(ids[: WINDOWS * LENGTH]).reshape(WINDOWS, LENGTH).tolist()  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=["bfloat16", "int4"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "bfloat16":
        return demo_model.model_path()
    out = tmp_path_factory.mktemp("paths") / request.param
    flyweight.compress(demo_model.model_path(), out, request.param, flyweight.CompressOptions(group_size=32))
    return out


@pytest.fixture(scope="module")
def exact(folder: Path, windows: list[list[int]]) -> Array:
    with kernels.use_isa("generic"):
        return predictions(folder, windows, "float32", "float32")


def predictions(folder: Path, windows: list[list[int]], compute: Any, cache: Any) -> Array:
    model = load(folder, compute=compute, kv_dtype=cache, kv_most_kl=100.0, cache_tokens=1024)
    return np.concatenate([logits for _, _, logits in model.score(windows)])


def mean_kl(exact: Array, found: Array) -> float:
    p, q = (values.astype(np.float64) - values.max(axis=1, keepdims=True) for values in (exact, found))
    p, q = (values - np.log(np.exp(values).sum(axis=1, keepdims=True)) for values in (p, q))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


@pytest.mark.parametrize(("compute", "cache"), BOUNDS)
@pytest.mark.parametrize("isa", sorted({"generic", kernels.isa()}))
def test_within_the_bounds_of_float32(
    folder: Path, windows: list[list[int]], exact: Array, isa: str, compute: str, cache: str
) -> None:
    with kernels.use_isa(isa):
        found = predictions(folder, windows, compute, cache)
    most_rms, most_kl = BOUNDS[compute, cache]
    rms = float(np.sqrt(((exact - found) ** 2).mean()) / exact.std())
    assert rms <= most_rms, f"relative rms {rms:.3g}"
    assert mean_kl(exact, found) <= most_kl
    if (compute, cache) != ("float32", "float32"):
        assert rms > 1e-5, "the path was not taken"
