"""Answers to prompts: each a state that takes one token's logits at a time, and the loop that runs many of them.

Every answer has tokens known (prompt and answer) and tokens computed (in the cache). A step computes some of what
is missing for each: a chunk of a prompt or the newest token, side by side in one batch. An answer that ends leaves,
and a waiting one takes its place. The loop does not know how logits are computed.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from flyweight.engine.sampling import Sampler, SamplingOptions
from flyweight.engine.stop_strings import StopStrings
from flyweight.errors import UsageError
from flyweight.formats.base import Array
from flyweight.runtime.batch import Batch
from flyweight.runtime.sequences import CachedSequence, SequencePlanner
from flyweight.tokenizer import Detokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Token counts. ``completion_tokens`` includes the end-of-text token and those of a stop string."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Seconds spent in the steps that an answer took part in.

    ``prefill_seconds`` until its first token was chosen, ``decode_seconds`` for all that followed. In a batch the
    steps are shared with other answers.
    """

    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A finished answer.

    ``text`` is without special tokens and without the stop string; ``token_ids`` are all chosen tokens.
    ``finish_reason`` is ``stop`` after an end-of-text token or a stop string (then named in ``stop_string``), and
    ``length`` when max_tokens or the context ended it.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_string: str | None
    usage: Usage
    timings: Timings

    @property
    def prefill_tokens_per_second(self) -> float:
        return self.usage.prompt_tokens / max(self.timings.prefill_seconds, 1e-9)

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first, by the time they took; 0 when there were none."""
        return (self.usage.completion_tokens - 1) / max(self.timings.decode_seconds, 1e-9)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPiece:
    """What one token brought: ``text`` may be empty. The last piece carries the whole ``completion``."""

    text: str
    token_id: int
    completion: Completion | None = None


class Answer:
    """One answer in the making.

    Args:
        prompt: token ids, at least one and fewer than ``context_length``.
        stop_ids: tokens that end the answer (unless the options say ignore_eos).
        detokenizer: decodes what follows the prompt; None where only ids are wanted (no stop strings then).
    """

    def __init__(
        self,
        prompt: Sequence[int],
        options: SamplingOptions,
        *,
        stop_ids: frozenset[int],
        context_length: int,
        detokenizer: Detokenizer | None,
    ) -> None:
        check_room(len(prompt), context_length)
        if detokenizer is None and options.stop:
            raise UsageError("stop strings need a tokenizer; this model has none")
        self.known = list(prompt)
        self.num_prompt_tokens = len(prompt)
        self.max_length = min(len(prompt) + options.max_tokens, context_length)
        self.completion: Completion | None = None
        self._stop_ids = (frozenset() if options.ignore_eos else stop_ids) | frozenset(options.stop_token_ids)
        self._sampler = Sampler(options, prompt, stop_ids=self._stop_ids)
        self._detokenizer = detokenizer
        self._stop_strings = StopStrings(options.stop)
        self._text: list[str] = []
        self._prefill_seconds = 0.0
        self._decode_seconds = 0.0

    def spend(self, seconds: float) -> None:
        """Count the time of a step that this answer took part in."""
        if len(self.known) == self.num_prompt_tokens:
            self._prefill_seconds += seconds
        else:
            self._decode_seconds += seconds

    def advance(self, logits: Array) -> TextPiece:
        """Choose the token that follows all known ones by its float32 logits (vocab,)."""
        token = self._sampler.choose(logits)
        self.known.append(token)
        is_end = token in self._stop_ids
        text = "" if is_end or self._detokenizer is None else self._stop_strings.push(self._detokenizer.push(token))
        reason: FinishReason | None = None
        if is_end or self._stop_strings.matched is not None:
            reason = "stop"
        elif len(self.known) >= self.max_length:
            reason = "length"
        if reason is not None:
            text += self._last_text()
            if self._stop_strings.matched is not None:
                reason = "stop"
        self._text.append(text)
        if reason is not None:
            self.completion = self._complete(reason)
        return TextPiece(text=text, token_id=token, completion=self.completion)

    def _last_text(self) -> str:
        """What was held back, unless a stop string came."""
        if self._detokenizer is None or self._stop_strings.matched is not None:
            return ""
        return self._stop_strings.push(self._detokenizer.finish()) + self._stop_strings.finish()

    def _complete(self, reason: FinishReason) -> Completion:
        chosen = tuple(self.known[self.num_prompt_tokens :])
        return Completion(
            text="".join(self._text),
            token_ids=chosen,
            finish_reason=reason,
            stop_string=self._stop_strings.matched,
            usage=Usage(prompt_tokens=self.num_prompt_tokens, completion_tokens=len(chosen)),
            timings=Timings(prefill_seconds=self._prefill_seconds, decode_seconds=self._decode_seconds),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """An answer that runs: its place among all answers, and its tokens in the cache."""

    index: int
    answer: Answer
    sequence: CachedSequence

    @property
    def num_missing(self) -> int:
        """Tokens known and not yet computed."""
        return len(self.answer.known) - self.sequence.length


def run_answers(
    answers: Sequence[Answer],
    forward: Callable[[Batch], Array],
    cache: SequencePlanner,
    *,
    batch_size: int,
    step_tokens: int,
) -> Iterator[tuple[int, TextPiece]]:
    """Run answers to their ends, at most ``batch_size`` at once; yields (index of the answer, its next piece).

    Args:
        forward: logits float32 (sequences, vocab) of each sequence's last token.
        step_tokens: tokens computed in one step at most (but never less than one sequence's newest).

    Blocks for the whole of an answer are taken from the cache when it starts, so that none runs out on the way; they
    go back when it ends, and all of them when the iterator is closed.

    Raises:
        ResourceError: when one answer alone does not fit into the cache.
    """
    waiting = deque(enumerate(answers))
    running: list[_Row] = []
    try:
        while waiting or running:
            _admit(waiting, running, cache, batch_size)
            began = time.perf_counter()
            rows, chunks = _choose_work(running, step_tokens)
            logits = forward(cache.plan([row.sequence for row in rows], chunks))
            seconds = time.perf_counter() - began
            for place, row in enumerate(rows):
                row.answer.spend(seconds)
                if row.num_missing:
                    continue
                piece = row.answer.advance(logits[place])
                if piece.completion is not None:
                    running.remove(row)
                    cache.release(row.sequence)
                yield row.index, piece
    finally:
        for row in running:
            cache.release(row.sequence)


def _admit(waiting: deque[tuple[int, Answer]], running: list[_Row], cache: SequencePlanner, batch_size: int) -> None:
    while waiting and len(running) < batch_size:
        index, answer = waiting[0]
        if running and cache.blocks_needed(answer.max_length) > cache.num_free_blocks:
            return
        sequence = CachedSequence()
        cache.grow(sequence, answer.max_length)
        running.append(_Row(index=index, answer=answer, sequence=sequence))
        waiting.popleft()


def _choose_work(running: Sequence[_Row], step_tokens: int) -> tuple[list[_Row], list[list[int]]]:
    """The rows of this step and what to compute for each: newest tokens first, then prompts while there is room."""
    rows: list[_Row] = []
    chunks: list[list[int]] = []
    left = step_tokens
    for row in sorted(running, key=lambda one: one.num_missing > 1):
        length = min(row.num_missing, max(left, 0) if rows else max(left, 1))
        if length:
            done = row.sequence.length
            rows.append(row)
            chunks.append(row.answer.known[done : done + length])
            left -= length
    return rows, chunks


def check_room(num_tokens: int, context_length: int) -> None:
    """Raise UsageError unless a prompt of so many tokens leaves room for an answer in the context."""
    if num_tokens == 0:
        raise UsageError("the prompt has no tokens; give it at least one character")
    if num_tokens >= context_length:
        raise UsageError(
            f"the prompt has {num_tokens} tokens and the context holds {context_length}, so there is no room for an "
            f"answer; shorten the prompt by at least {num_tokens - context_length + 1} tokens"
        )
