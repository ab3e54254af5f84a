"""Row figures against scipy, and the promised errors of stored predictions."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from flyweight.errors import DataError
from flyweight.evaluation import distributions
from flyweight.evaluation.distributions import kl_divergence, row_statistics
from flyweight.evaluation.log_probabilities import (
    KL_ERROR,
    LOGIT_ERROR,
    PredictionCache,
    decode_rows,
    encode_rows,
    stored_bytes,
)


def random_logits(rows: int, vocab: int, seed: int, scale: float = 4.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (rows, vocab)).astype(np.float32)


@pytest.fixture(params=[1 << 21, 100], ids=["one slice", "many slices"])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "SLICE_ELEMENTS", request.param)


@pytest.mark.usefixtures("slices")
def test_row_statistics_are_log_softmax() -> None:
    logits, targets = random_logits(23, 61, 0), np.random.default_rng(1).integers(0, 61, 23)
    found = row_statistics(logits, targets)
    expected = special.log_softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(found.nll, -expected[np.arange(23), targets], atol=1e-6)
    np.testing.assert_array_equal(found.top1, expected.argmax(axis=1))
    np.testing.assert_allclose(found.probability, np.exp(expected[np.arange(23), targets]), atol=1e-6)


@pytest.mark.usefixtures("slices")
def test_kl_is_scipys_relative_entropy_whatever_constant_a_row_is_shifted_by() -> None:
    p, q = random_logits(23, 61, 2), random_logits(23, 61, 3)
    expected = [
        stats.entropy(special.softmax(a.astype(np.float64)), special.softmax(b.astype(np.float64)))
        for a, b in zip(p, q, strict=True)
    ]
    np.testing.assert_allclose(kl_divergence(p, q), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(kl_divergence(p + np.float32(8), q - np.float32(32)), expected, rtol=1e-4)


def test_a_models_divergence_from_itself_is_zero() -> None:
    p = random_logits(50, 61, 4, scale=10)
    assert kl_divergence(p, p.copy()).max() == 0.0


def test_small_divergences_keep_their_digits() -> None:
    p = random_logits(200, 500, 5)
    q = p + np.float32(1e-3) * random_logits(200, 500, 6, scale=1)
    probabilities = special.softmax(p.astype(np.float64), axis=1)
    expected = stats.entropy(probabilities, special.softmax(q.astype(np.float64), axis=1), axis=1)
    assert kl_divergence(p, q).mean() == pytest.approx(expected.mean(), rel=0.02)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_model_is_named(bad: float) -> None:
    logits = random_logits(3, 5, 0)
    logits[1, 2] = bad
    with pytest.raises(DataError, match="NaN or infinite logits"):
        row_statistics(logits, np.zeros(3, int))


@pytest.mark.parametrize("scale", [0.01, 3.0, 12.0])
def test_stored_predictions_keep_their_stated_errors(scale: float) -> None:
    logits = random_logits(100, 3000, 7, scale)
    decoded = decode_rows(*encode_rows(logits))
    below = logits - logits.max(axis=1, keepdims=True)
    kept = below > -40
    assert np.abs(decoded - below)[kept].max() <= LOGIT_ERROR * 1.01
    divergence = stats.entropy(
        special.softmax(decoded.astype(np.float64), axis=1), special.softmax(logits.astype(np.float64), axis=1), axis=1
    )
    assert divergence.max() <= KL_ERROR
    assert kl_divergence(decoded, logits).max() < 2e-7


def test_rows_of_equal_logits_and_of_far_tails_are_stored() -> None:
    logits = np.array([[5.0, 5.0, 5.0], [0.0, -1e4, -2.0]], np.float32)
    decoded = decode_rows(*encode_rows(logits))
    assert decoded[0].tolist() == [0.0, 0.0, 0.0]
    assert decoded[1, 1] == pytest.approx(-40)
    assert decoded[1, 2] == pytest.approx(-2, abs=LOGIT_ERROR)


def fill(cache: PredictionCache, key: str, logits: np.ndarray) -> None:
    targets = np.zeros(len(logits), int)
    with cache.write(key, *logits.shape) as writer:
        for start in range(0, len(logits), 7):
            part = logits[start : start + 7]
            writer.append(part, row_statistics(part, targets[start : start + 7]))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    cache = PredictionCache(tmp_path, 10**9)
    logits = random_logits(30, 41, 8)
    assert cache.find("k", 30, 41) is None
    fill(cache, "k", logits)
    found = cache.find("k", 30, 41)
    assert found is not None
    np.testing.assert_array_equal(found.statistics.nll, row_statistics(logits, np.zeros(30, int)).nll)
    np.testing.assert_array_equal(found.statistics.top1, logits.argmax(axis=1))
    np.testing.assert_allclose(found.logits(5, 9), (logits - logits.max(axis=1, keepdims=True))[5:9], atol=4e-4)
    assert sum(file.stat().st_size for file in (tmp_path / "evaluation" / "k").iterdir()) == stored_bytes(30, 41)
    assert cache.find("k", 29, 41) is None, "files of another size are not what was asked for"


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = PredictionCache(tmp_path, 10**9)

    def stop_early() -> None:
        with cache.write("k", 30, 41) as writer:
            writer.append(random_logits(3, 41, 0), row_statistics(random_logits(3, 41, 0), np.zeros(3, int)))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        stop_early()
    assert list((tmp_path / "evaluation").iterdir()) == []


def test_the_least_recently_used_gives_way_and_the_limit_holds(tmp_path: Path) -> None:
    size = stored_bytes(30, 41)
    cache = PredictionCache(tmp_path, 2 * size + 100)
    logits = random_logits(30, 41, 8)
    for age, key in enumerate(("old", "older")):
        fill(cache, key, logits)
        os.utime(tmp_path / "evaluation" / key, (1e9 - age, 1e9 - age))
    assert cache.find("older", 30, 41) is not None  # used again, so "old" is now the older one
    fill(cache, "new", logits)
    assert sorted(folder.name for folder in (tmp_path / "evaluation").iterdir()) == ["new", "older"]
    assert cache.refusal(30, 41) is None
    assert "would pass the cache limit" in str(cache.refusal(90, 41))


def test_what_a_killed_run_left_gives_way_and_what_runs_is_left_alone(tmp_path: Path) -> None:
    cache = PredictionCache(tmp_path, stored_bytes(30, 41))
    for name, age in ((".part-old", 2 * 86400), (".part-new", 10)):
        (cache.folder / name).mkdir(parents=True)
        (cache.folder / name / "codes.u16").write_bytes(b"x" * 100)
        os.utime(cache.folder / name, (time.time() - age, time.time() - age))
    fill(cache, "k", random_logits(30, 41, 8))
    assert sorted(folder.name for folder in cache.folder.iterdir()) == [".part-new", "k"]


def test_answers_are_kept(tmp_path: Path) -> None:
    cache = PredictionCache(tmp_path, 10**6)
    assert cache.find_answers("a") is None
    cache.write_answers("a", ["x", "ü\n"])
    assert cache.find_answers("a") == ["x", "ü\n"]
