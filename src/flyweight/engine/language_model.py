"""A loaded model: logits, scores of given tokens, and answers to prompts. Make one with ``flyweight.load``.

It joins text (tokenizer, chat template) with the engine, which knows token ids only. It does not know how weights
are stored or which backend computes.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.engine.generation import Answer, Completion, TextPiece, run_answers
from flyweight.engine.sampling import SamplingOptions
from flyweight.errors import CheckpointError, UsageError
from flyweight.formats.base import Array
from flyweight.models.spec import ModelSpec
from flyweight.progress import Progress, Silent
from flyweight.runtime.batch import Batch
from flyweight.runtime.kv_cache import KVCache
from flyweight.runtime.runner import Runner
from flyweight.runtime.sequences import CachedSequence, SequencePlanner
from flyweight.tokenizer import Tokenizer

Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Sequence[Message]

STEP_TOKENS = 512
LOGIT_BYTES = 64 << 20


class LanguageModel:
    """A model that is ready to run.

    Attributes:
        spec: what the model is.
        checkpoint: where it came from.
        context_length: tokens that a prompt and its answer may have together.
        default_options: what generation_config.json asks for.
        stop_ids: tokens that end an answer: every end-of-text id named in config.json, generation_config.json and
            the tokenizer's files, and the BOS id, with which some models begin the next text.
        description: lines that say which kernels, formats and compute types are in use.
    """

    def __init__(
        self,
        *,
        spec: ModelSpec,
        checkpoint: Checkpoint,
        tokenizer: Tokenizer | None,
        runner: Runner,
        cache: KVCache,
        default_options: SamplingOptions,
        stop_ids: frozenset[int],
        description: tuple[str, ...],
    ) -> None:
        self.spec = spec
        self.checkpoint = checkpoint
        self.context_length = min(spec.max_positions, cache.num_blocks * cache.block_size)
        self.default_options = default_options
        self.stop_ids = stop_ids
        self.description = description
        self._tokenizer = tokenizer
        self._runner = runner
        self._cache = SequencePlanner.of(cache)
        # Frequencies that follow the length of the sequence would differ between the chunks of one prompt.
        has_moving_rope = any(
            block.attention.rope is not None and block.attention.rope.kind in ("dynamic", "longrope")
            for block in spec.blocks
        )
        self._whole_prompts = has_moving_rope

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            CheckpointError: when the checkpoint has none; token ids still work.
        """
        if self._tokenizer is None:
            raise CheckpointError(
                f"{self.checkpoint.folder} has no tokenizer.json, so it takes token ids only; "
                "copy the tokenizer files of the model into the folder"
            )
        return self._tokenizer

    def forward(self, batch: Batch) -> Array:
        """Logits float32 (outputs, vocab_size) of the batch's ``output_rows``."""
        return self._runner.forward(batch)

    def score(
        self, sequences: Sequence[Sequence[int]], *, chunk_tokens: int = STEP_TOKENS
    ) -> Iterator[tuple[int, int, Array]]:
        """The logits after every token of every sequence, in chunks.

        Args:
            sequences: token ids as they are (no BOS is added), each at most ``context_length`` long.
            chunk_tokens: tokens computed at once; short sequences share a step.

        Yields:
            (sequence, first position, logits float32 (rows, vocab_size)), sequence after sequence, positions in
            order; row r is the prediction made after the token at ``first position + r``. At most 64 MiB of logits
            exist at once.

        Raises:
            UsageError: when a sequence is longer than the context or holds an id that the model does not have.
        """
        if chunk_tokens < 1:
            raise UsageError(f"chunk_tokens={chunk_tokens} is not allowed; choose 1 or more")
        for tokens in sequences:
            self._check_ids(tokens)
            if len(tokens) > self.context_length:
                raise UsageError(
                    f"a sequence has {len(tokens)} tokens and the context holds {self.context_length}; "
                    "cut it into windows"
                )
        open_sequences: dict[int, CachedSequence] = {}
        try:
            lengths = [len(tokens) for tokens in sequences]
            for step in _steps(lengths, chunk_tokens, self._cache, whole=self._whole_prompts):
                yield from self._score_step(sequences, step, open_sequences)
        finally:
            for sequence in open_sequences.values():
                self._cache.release(sequence)

    def _score_step(
        self,
        sequences: Sequence[Sequence[int]],
        step: list[tuple[int, int, int]],
        open_sequences: dict[int, CachedSequence],
    ) -> Iterator[tuple[int, int, Array]]:
        for index, _, _ in step:
            open_sequences.setdefault(index, CachedSequence())
        batch = self._cache.plan(
            [open_sequences[index] for index, _, _ in step],
            [sequences[index][start:stop] for index, start, stop in step],
            all_logits=True,
        )
        x = self._runner.hidden(batch)
        for index, _, stop in step:
            if stop == len(sequences[index]):
                self._cache.release(open_sequences.pop(index))
        rows_at_once = max(1, LOGIT_BYTES // (4 * self.spec.vocab_size))
        row = 0
        for index, start, stop in step:
            for first in range(start, stop, rows_at_once):
                count = min(rows_at_once, stop - first)
                yield index, first, self._runner.logits(x[row : row + count])
                row += count

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt: text, a conversation (through the chat template), or ids as they are.

        Raises:
            UsageError: when it does not fit into the context or holds an id that the model does not have.
        """
        ids = encode_prompt(self._tokenizer if _is_ids(prompt) else self.tokenizer, prompt)
        self._check_ids(ids)
        return ids

    def stream(self, prompt: Prompt, options: SamplingOptions | None = None) -> Generator[TextPiece, None, None]:
        """Answer one prompt; the pieces of text as they come, the last with the whole completion.

        Closing the generator stops the answer and gives its cache back.

        Fields of ``options`` left None are taken from ``default_options``.

        Raises:
            UsageError: when the prompt leaves no room in the context, before anything is computed.
        """
        answer = self._answer(prompt, options)
        return (piece for _, piece in self._run([answer], batch_size=1))

    def generate(
        self,
        prompts: Sequence[Prompt],
        options: SamplingOptions | Sequence[SamplingOptions] | None = None,
        *,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """Answer many prompts, ``batch_size`` at a time in one batch; completions in the order of the prompts.

        ``options`` are for all prompts, or one for each. In float32 every answer is the one that the prompt would
        get alone.

        Raises:
            UsageError: when a prompt leaves no room in the context, before anything is computed.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size} is not allowed; choose 1 or more")
        each = [options] * len(prompts) if options is None or isinstance(options, SamplingOptions) else list(options)
        if len(each) != len(prompts):
            raise UsageError(f"{len(each)} options were given for {len(prompts)} prompts; give one, or one for each")
        answers = [self._answer(prompt, one) for prompt, one in zip(prompts, each, strict=True)]
        progress = progress if progress is not None else Silent()
        progress.start("answers", len(answers))
        completions: dict[int, Completion] = {}
        for index, piece in self._run(answers, batch_size=batch_size):
            if piece.completion is not None:
                completions[index] = piece.completion
                progress.advance()
        progress.finish()
        return [completions[index] for index in range(len(answers))]

    def _run(self, answers: list[Answer], *, batch_size: int) -> Iterator[tuple[int, TextPiece]]:
        step_tokens = STEP_TOKENS
        if self._whole_prompts:
            step_tokens = max([step_tokens, *(batch_size * answer.num_prompt_tokens for answer in answers)])
        return run_answers(answers, self.forward, self._cache, batch_size=batch_size, step_tokens=step_tokens)

    def _answer(self, prompt: Prompt, options: SamplingOptions | None) -> Answer:
        ids = self.encode(prompt)
        resolved = (options if options is not None else SamplingOptions()).with_defaults(self.default_options)
        return Answer(
            ids,
            resolved,
            stop_ids=self.stop_ids,
            context_length=self.context_length,
            detokenizer=None if self._tokenizer is None else self._tokenizer.detokenizer(ids),
        )

    def _check_ids(self, ids: Sequence[int]) -> None:
        if len(ids) and not (min(ids) >= 0 and max(ids) < self.spec.vocab_size):
            wrong = next(index for index in ids if not 0 <= index < self.spec.vocab_size)
            raise UsageError(
                f"token id {wrong} is outside the model's vocabulary; ids go from 0 to {self.spec.vocab_size - 1}"
            )


def encode_prompt(tokenizer: Tokenizer | None, prompt: Prompt) -> list[int]:
    """Token ids of text (with BOS where the model wants it), of a conversation, or ids as they are."""
    if isinstance(prompt, str):
        assert tokenizer is not None
        return tokenizer.encode(prompt)
    if _is_ids(prompt):
        return [int(index) for index in prompt if not isinstance(index, Mapping)]
    if not all(isinstance(message, Mapping) for message in prompt):
        raise UsageError("a prompt is a string, a list of token ids, or a list of messages with role and content")
    assert tokenizer is not None
    return tokenizer.encode_chat([message for message in prompt if isinstance(message, Mapping)])


def _is_ids(prompt: Prompt) -> bool:
    return not isinstance(prompt, str) and all(isinstance(one, (int, np.integer)) for one in prompt)


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
