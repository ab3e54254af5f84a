"""Figures of the fake model against formulas over all its logits at once, stored and side by side alike."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from flyweight.evaluation.distributions import RowStatistics
from flyweight.evaluation.figures import compare, kl_histogram, per_document, perplexities
from flyweight.evaluation.log_probabilities import PredictionCache
from flyweight.evaluation.protocol import ScoringPlan, plan_scoring
from flyweight.evaluation.scoring import (
    Divergence,
    aligned,
    compare_side_by_side,
    compare_with_stored,
    score_alone,
    scored_logits,
    store_predictions,
)
from flyweight.evaluation.statistics import Bootstrap, choose_units
from flyweight.evaluation.text import EvaluationText
from flyweight.progress import Silent
from tests.support.fake_model import FakeModel

VOCAB = 37


def make_plan(kind: str = "rolling", num_documents: int = 25, window: int = 16) -> ScoringPlan:
    generator = np.random.default_rng(11)
    documents = tuple(
        " ".join(map(str, generator.integers(3, VOCAB, generator.integers(5, 40)))) for _ in range(num_documents)
    )
    return plan_scoring(
        EvaluationText(name="t", documents=documents, sha256="0"),
        lambda document: [int(word) for word in document.split()],
        kind=kind,  # type: ignore[arg-type]
        window=window,
        stride=8 if kind == "windows" else None,
        bos_rule="auto",
        bos_token_id=1,
        eos_token_id=2,
    )


def draws(plan: ScoringPlan) -> Bootstrap:
    return Bootstrap(choose_units(plan.documents, plan.sequences), num_resamples=200, seed=0, confidence=0.95)


def reference(model: FakeModel, plan: ScoringPlan) -> np.ndarray:
    """Log-probabilities float64 (rows, vocab), sequence by sequence without any chunks."""
    return np.concatenate(
        [
            special.log_softmax(model.logits(one.token_ids[:-1])[one.num_context - 1 :].astype(np.float64), axis=1)
            for one in plan.scored
        ]
    )


@pytest.mark.parametrize("kind", ["rolling", "documents", "windows"])
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_perplexity_is_that_of_all_logits_at_once(kind: str, chunk: int) -> None:
    plan, model = make_plan(kind), FakeModel(VOCAB)
    found = score_alone(model, plan, chunk_tokens=chunk, progress=Silent())
    nll = -reference(model, plan)[np.arange(plan.num_rows), plan.targets]
    np.testing.assert_allclose(found.nll, nll, atol=1e-6)
    assert model.largest_chunk <= chunk
    figures = perplexities(found, plan, draws(plan))
    assert figures.token.value == pytest.approx(math.exp(nll.mean()), rel=1e-6)
    assert figures.word.value == pytest.approx(math.exp(nll.sum() / plan.words.sum()), rel=1e-6)
    assert figures.byte.value == pytest.approx(math.exp(nll.sum() / plan.bytes.sum()), rel=1e-6)
    assert figures.bits_per_byte.value == pytest.approx(math.log2(figures.byte.value), rel=1e-6)
    assert figures.token.num_samples == plan.num_rows
    for figure in (figures.token, figures.word, figures.byte, figures.bits_per_byte):
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < figure.value < figure.high


def test_a_uniform_model_has_the_vocabulary_as_perplexity() -> None:
    plan = make_plan()
    found = score_alone(FakeModel(VOCAB, uniform=True), plan, chunk_tokens=9, progress=Silent())
    figures = perplexities(found, plan, draws(plan))
    assert figures.token.value == pytest.approx(VOCAB, rel=1e-6)
    words_per_token = plan.protocol.num_words / plan.protocol.num_tokens
    assert figures.word.value == pytest.approx(VOCAB ** (1 / words_per_token), rel=1e-6)


def run(
    plan: ScoringPlan, folder: Path, limit: int, noise: float = 0.3, **original: int
) -> tuple[RowStatistics, Divergence]:
    """The candidate with ``noise`` against the original, stored when the cache's ``limit`` allows it."""
    cache, candidate = PredictionCache(folder, limit), FakeModel(VOCAB, noise=noise)
    refusal = cache.refusal(plan.num_rows, VOCAB)
    if refusal is not None:
        return compare_side_by_side(
            candidate, FakeModel(VOCAB, **original), plan, reason=refusal, chunk_tokens=7, progress=Silent()
        )
    stored = store_predictions(
        FakeModel(VOCAB, **original),
        plan,
        vocab_size=VOCAB,
        key="k",
        cache=cache,
        chunk_tokens=6,
        progress=Silent(),
    )
    return compare_with_stored(candidate, stored, plan, chunk_tokens=7, progress=Silent())


@pytest.mark.parametrize(("limit", "kl_error"), [(10**9, 2e-4), (10, 2e-7)], ids=["stored", "side by side"])
def test_the_comparison_is_that_of_all_logits_at_once(tmp_path: Path, limit: int, kl_error: float) -> None:
    plan = make_plan()
    statistics, divergence = run(plan, tmp_path, limit)
    ours, theirs = reference(FakeModel(VOCAB, noise=0.3), plan), reference(FakeModel(VOCAB), plan)
    rows = np.arange(plan.num_rows)
    kl = stats.entropy(np.exp(theirs), np.exp(ours), axis=1)
    change = np.exp(ours[rows, plan.targets]) - np.exp(theirs[rows, plan.targets])
    np.testing.assert_allclose(divergence.kl, kl, atol=kl_error)
    found = compare(statistics, divergence, draws(plan))
    assert found.kl_mean.value == pytest.approx(kl.mean(), abs=kl_error / 20)
    assert found.kl_median.value == pytest.approx(np.sort(kl)[math.ceil(len(kl) / 2) - 1], abs=kl_error)
    assert found.kl_p99.value == pytest.approx(np.sort(kl)[math.ceil(len(kl) * 0.99) - 1], abs=kl_error)
    assert found.kl_max.value == pytest.approx(kl.max(), abs=kl_error)
    assert found.top1.value == pytest.approx((ours.argmax(1) == theirs.argmax(1)).mean())
    assert found.delta_p_mean.value == pytest.approx(change.mean(), abs=1e-6)
    assert found.delta_p_rms.value == pytest.approx(np.sqrt((change**2).mean()), rel=1e-5)
    log_ratio = theirs[rows, plan.targets].mean() - ours[rows, plan.targets].mean()
    assert found.ppl_ratio.value == pytest.approx(math.exp(log_ratio), rel=1e-6)
    assert ("side by side" in found.predictions) == (limit == 10)
    assert bool(list(tmp_path.rglob("*.u16"))) != (limit == 10)


@pytest.mark.parametrize("limit", [10**9, 10], ids=["stored", "side by side"])
def test_a_model_against_itself_shows_nothing(tmp_path: Path, limit: int) -> None:
    plan = make_plan()
    statistics, divergence = run(plan, tmp_path, limit, noise=0.0)
    found = compare(statistics, divergence, draws(plan))
    assert found.kl_max.value < 1e-6
    assert (found.kl_mean.value == 0) == (limit == 10)
    assert found.top1.value == 1.0
    assert found.ppl_ratio.value == 1.0
    assert (found.ppl_ratio.low, found.ppl_ratio.high) == (1.0, 1.0)
    assert found.ppl_difference.value == 0.0


def test_models_that_chunk_differently_are_aligned(tmp_path: Path) -> None:
    plan = make_plan()
    same = run(plan, tmp_path, 10)
    other = run(plan, tmp_path, 10, split=3)
    np.testing.assert_allclose(same[1].kl, other[1].kl, atol=1e-9)
    pairs = list(
        aligned(
            scored_logits(FakeModel(VOCAB), plan, chunk_tokens=4), scored_logits(FakeModel(VOCAB), plan, chunk_tokens=7)
        )
    )
    assert sum(len(first) for _, first, _ in pairs) == plan.num_rows
    for _, first, second in pairs:
        np.testing.assert_array_equal(first, second)


def test_documents_and_the_histogram_hold_all_rows(tmp_path: Path) -> None:
    plan = make_plan()
    statistics, divergence = run(plan, tmp_path, 10)
    documents = per_document(statistics, divergence, plan)
    assert sum(one.num_tokens for one in documents) == plan.num_rows
    assert sum(one.num_tokens * one.nll for one in documents) == pytest.approx(statistics.nll.sum())
    assert sum(one.num_tokens * (one.kl or 0) for one in documents) == pytest.approx(divergence.kl.sum())
    assert sum(kl_histogram(divergence.kl).counts) == plan.num_rows
    assert sum(kl_histogram(np.zeros(9)).counts) == 9
