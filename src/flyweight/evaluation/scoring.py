"""Run a plan through models and gather what the figures need, a chunk of logits at a time.

Never more than one chunk of each model's logits is held. The original's predictions are stored once and read for
every candidate; where they do not fit on disk, both models run side by side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from flyweight.errors import IntegrityError, UsageError
from flyweight.evaluation.distributions import RowStatistics, kl_divergence, row_statistics
from flyweight.evaluation.log_probabilities import KL_ERROR, LOGIT_ERROR, PredictionCache, StoredPredictions
from flyweight.evaluation.protocol import ScoringPlan
from flyweight.progress import Progress

Array = np.ndarray[Any, np.dtype[Any]]


class Scorer(Protocol):
    """What evaluation needs of a model to score tokens."""

    def score(self, sequences: Sequence[Sequence[int]], *, chunk_tokens: int) -> Iterator[tuple[int, int, Array]]:
        """Yield (sequence, first position, float32 logits (rows, vocab)), sequence after sequence, positions in order.

        Row r holds the prediction made after the token at ``first position + r``.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """The candidate against the original: ``kl`` float64 (rows,) in nats, and the original's own statistics.

    ``source`` says in words where the original's predictions came from and with what error.
    """

    kl: Array
    original: RowStatistics
    source: str


def scored_logits(model: Scorer, plan: ScoringPlan, *, chunk_tokens: int) -> Iterator[tuple[int, Array]]:
    """Yield (first row, logits (rows, vocab)) of the plan's rows in order; rows that nothing scores are left out."""
    inputs = [one.token_ids[:-1].tolist() for one in plan.scored]
    for sequence, position, logits in model.score(inputs, chunk_tokens=chunk_tokens):
        unscored = max(0, plan.scored[sequence].num_context - 1 - position)
        if unscored < len(logits):
            offset = position + unscored - (plan.scored[sequence].num_context - 1)
            yield int(plan.row_starts[sequence]) + offset, logits[unscored:]


def score_alone(model: Scorer, plan: ScoringPlan, *, chunk_tokens: int, progress: Progress) -> RowStatistics:
    """Statistics of one model."""
    progress.start("tokens scored", plan.num_rows)
    gathered = _Gathered(plan)
    for start, logits in scored_logits(model, plan, chunk_tokens=chunk_tokens):
        gathered.add(start, logits)
        progress.advance(len(logits))
    return gathered.finish()


def store_predictions(
    original: Scorer,
    plan: ScoringPlan,
    *,
    vocab_size: int,
    key: str,
    cache: PredictionCache,
    chunk_tokens: int,
    progress: Progress,
) -> StoredPredictions:
    """Run the original once and keep its predictions under ``key``."""
    progress.start("the original's predictions", plan.num_rows)
    with cache.write(key, plan.num_rows, vocab_size) as writer:
        for start, logits in scored_logits(original, plan, chunk_tokens=chunk_tokens):
            writer.append(logits, row_statistics(logits, plan.targets[start : start + len(logits)]))
            progress.advance(len(logits))
    stored = cache.find(key, plan.num_rows, vocab_size)
    if stored is None:
        raise UsageError(f"predictions just stored in {cache.folder / key} are gone; is another process clearing it?")
    return stored


def compare_with_stored(
    candidate: Scorer, stored: StoredPredictions, plan: ScoringPlan, *, chunk_tokens: int, progress: Progress
) -> tuple[RowStatistics, Divergence]:
    """Statistics of the candidate, and its divergence from predictions that were stored for the same plan."""
    progress.start("predictions compared", plan.num_rows)
    kl = np.empty(plan.num_rows, np.float64)
    gathered = _Gathered(plan)
    for start, logits in scored_logits(candidate, plan, chunk_tokens=chunk_tokens):
        gathered.add(start, logits)
        kl[start : start + len(logits)] = kl_divergence(stored.logits(start, start + len(logits)), logits)
        progress.advance(len(logits))
    source = (
        f"stored in 16 bits: each logit within {LOGIT_ERROR:.1e} nats, "
        f"the distribution within {KL_ERROR:.1e} nats (KL); likelihoods and top tokens exact"
    )
    return gathered.finish(), Divergence(kl=kl, original=stored.statistics, source=source)


def compare_side_by_side(
    candidate: Scorer, original: Scorer, plan: ScoringPlan, *, reason: str, chunk_tokens: int, progress: Progress
) -> tuple[RowStatistics, Divergence]:
    """The same with both models running, one chunk each at a time. ``reason`` says why nothing was stored."""
    progress.start("both models side by side", plan.num_rows)
    kl = np.empty(plan.num_rows, np.float64)
    ours, theirs = _Gathered(plan), _Gathered(plan)
    pairs = aligned(
        scored_logits(candidate, plan, chunk_tokens=chunk_tokens),
        scored_logits(original, plan, chunk_tokens=chunk_tokens),
    )
    for start, candidate_logits, original_logits in pairs:
        ours.add(start, candidate_logits)
        theirs.add(start, original_logits)
        kl[start : start + len(candidate_logits)] = kl_divergence(original_logits, candidate_logits)
        progress.advance(len(candidate_logits))
    source = f"both models ran side by side in float32, nothing stored ({reason})"
    return ours.finish(), Divergence(kl=kl, original=theirs.finish(), source=source)


def aligned(
    first: Iterator[tuple[int, Array]], second: Iterator[tuple[int, Array]]
) -> Iterator[tuple[int, Array, Array]]:
    """Cut two streams of (first row, logits) over the same rows at common borders."""
    ahead: tuple[int, Array] | None = None
    for start, logits in first:
        while len(logits):
            if ahead is None:
                ahead = next(second, None)
            if ahead is None or ahead[0] != start:
                raise IntegrityError("two models scored different rows of one plan")
            length = min(len(logits), len(ahead[1]))
            yield start, logits[:length], ahead[1][:length]
            start, logits = start + length, logits[length:]
            ahead = (ahead[0] + length, ahead[1][length:]) if length < len(ahead[1]) else None


class _Gathered:
    """Row statistics filled in by chunks; complete when every row came exactly once."""

    def __init__(self, plan: ScoringPlan) -> None:
        self._targets = plan.targets
        self._nll: Array = np.empty(plan.num_rows, np.float64)
        self._top1: Array = np.empty(plan.num_rows, np.int32)
        self._num_rows = 0

    def add(self, start: int, logits: Array) -> None:
        rows = slice(start, start + len(logits))
        statistics = row_statistics(logits, self._targets[rows])
        self._nll[rows], self._top1[rows] = statistics.nll, statistics.top1
        self._num_rows += len(logits)

    def finish(self) -> RowStatistics:
        if self._num_rows != len(self._targets):
            raise IntegrityError(f"{self._num_rows} of {len(self._targets)} rows scored")
        return RowStatistics(nll=self._nll, top1=self._top1)
