"""The logits after every token of given sequences, in chunks that need little memory; no text, no engine."""

from collections.abc import Iterator, Sequence

from flyweight.engine.options import has_moving_rope
from flyweight.formats.base import Array
from flyweight.models.spec import ModelSpec
from flyweight.runtime.runner import Runner
from flyweight.runtime.sequences import CachedSequence, SequencePlanner

LOGIT_BYTES = 64 << 20


def rows_at_once(spec: ModelSpec) -> int:
    """Rows of logits that may exist at once: 64 MiB of them."""
    return max(1, LOGIT_BYTES // (4 * spec.vocab_size))


class Scorer:
    """Scores sequences with one model.

    Args:
        planner: over the cache that ``runner`` uses.
    """

    def __init__(self, runner: Runner, spec: ModelSpec, planner: SequencePlanner) -> None:
        self._runner = runner
        self._spec = spec
        self._planner = planner
        self._open: dict[int, CachedSequence] = {}

    def score(self, sequences: Sequence[Sequence[int]], *, chunk_tokens: int) -> Iterator[tuple[int, int, Array]]:
        """As ``LanguageModel.score``, for sequences that have been checked; blocks are given back in every case."""
        lengths = [len(tokens) for tokens in sequences]
        try:
            for step in _steps(lengths, chunk_tokens, self._planner, whole=has_moving_rope(self._spec)):
                yield from self._step(sequences, step)
        finally:
            for sequence in self._open.values():
                self._planner.release(sequence)

    def _step(
        self, sequences: Sequence[Sequence[int]], step: list[tuple[int, int, int]]
    ) -> Iterator[tuple[int, int, Array]]:
        for index, _, _ in step:
            self._open.setdefault(index, CachedSequence())
        batch = self._planner.plan(
            [self._open[index] for index, _, _ in step],
            [sequences[index][start:stop] for index, start, stop in step],
            all_logits=True,
        )
        x = self._runner.hidden(batch)
        for index, _, stop in step:
            if stop == len(sequences[index]):
                self._planner.release(self._open.pop(index))
        most = rows_at_once(self._spec)
        row = 0
        for index, start, stop in step:
            for first in range(start, stop, most):
                count = min(most, stop - first)
                yield index, first, self._runner.logits(x[row : row + count])
                row += count


def _steps(
    lengths: Sequence[int], chunk_tokens: int, cache: SequencePlanner, *, whole: bool
) -> Iterator[list[tuple[int, int, int]]]:
    """Pieces (sequence, start, stop) of all sequences in order, put together to steps.

    A step has at most ``chunk_tokens`` tokens and no more sequences than the cache can hold, counting what earlier
    steps have stored of them. With ``whole`` a sequence is never cut.
    """
    step: list[tuple[int, int, int]] = []
    tokens_left, blocks_left = chunk_tokens, cache.num_free_blocks
    most_blocks = blocks_left
    for index, length in enumerate(lengths):
        size = max(1, length if whole else chunk_tokens)
        for start in range(0, length, size):
            stop = min(start + size, length)
            blocks = cache.blocks_needed(stop)
            if step and (stop - start > tokens_left or blocks > blocks_left):
                yield step
                step, tokens_left, blocks_left = [], chunk_tokens, most_blocks
            step.append((index, start, stop))
            tokens_left -= stop - start
            blocks_left -= blocks
    if step:
        yield step
