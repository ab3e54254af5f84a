"""A loaded model: logits, scores of given tokens, and answers to prompts. Make one with ``flyweight.load``.

It joins text (tokenizer, chat template) with the engine, which knows token ids only. It does not know how weights
are stored or which backend computes.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from flyweight import kernels
from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.weights import Weights
from flyweight.engine.constraint import ConstraintFactory
from flyweight.engine.engine import Engine, Trace
from flyweight.engine.forbidden import mask_of, sequences_of
from flyweight.engine.generation import Answer, Asked, Completion, Reader, TextPiece
from flyweight.engine.grammar.limits import GrammarLimits
from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.engine.memory import CacheSizes
from flyweight.engine.options import EngineOptions
from flyweight.engine.prompts import Prompt, encode_prompt, is_ids
from flyweight.engine.proposer import Proposer
from flyweight.engine.request import Request, check_room
from flyweight.engine.sampling import SamplingOptions
from flyweight.engine.scheduler import StepBudget
from flyweight.engine.scoring import Scorer, rows_at_once
from flyweight.engine.speculation.acceptance import accept_by_ratio
from flyweight.engine.tokenizer_loading import TokenizerLoading
from flyweight.errors import CheckpointError, UsageError
from flyweight.formats.base import Array
from flyweight.models.spec import ModelSpec
from flyweight.progress import Progress, Silent
from flyweight.runtime.batch import Batch
from flyweight.runtime.kv_cache import KVCache
from flyweight.runtime.runner import Runner
from flyweight.runtime.sequences import FreeBlocks, SequencePlanner
from flyweight.tokenizer import Tokenizer

if TYPE_CHECKING:
    from flyweight.engine.grammar.compiler import GrammarCompiler

Constraint = ConstraintSpec | ConstraintFactory

SCORE_TOKENS = 512


class LanguageModel:
    """A model that is ready to run.

    Attributes:
        spec: what the model is.
        checkpoint: where it came from.
        context_length: tokens that a prompt and its answer may have together.
        default_options: what generation_config.json asks for.
        description: lines that say which kernels, formats, compute types and engine options are in use.
    """

    def __init__(
        self,
        *,
        spec: ModelSpec,
        checkpoint: Checkpoint,
        tokenizer: TokenizerLoading,
        runner: Runner,
        cache: KVCache,
        default_options: SamplingOptions,
        read_stop_ids: Callable[[Tokenizer | None], frozenset[int]],
        description: tuple[str, ...],
        engine_options: EngineOptions,
        make_proposer: Callable[[], Proposer] | None = None,
    ) -> None:
        self.spec = spec
        self.checkpoint = checkpoint
        self.context_length = min(spec.max_positions, cache.num_blocks * cache.block_size)
        self.default_options = default_options
        self.description = description
        self._tokenizer = tokenizer
        self._read_stop_ids = read_stop_ids
        self._runner = runner
        self._block_size, self._num_blocks = cache.block_size, cache.num_blocks
        self._kv_dtype = cache.dtype
        self._engine_options = engine_options
        self._make_proposer = make_proposer
        self._reader: Reader | None = None
        self._final_norm: Array | None = None
        self._grammars: GrammarCompiler | None = None

    @property
    def engine(self) -> Engine:
        """The engine that ``generate`` and ``stream`` use, made when it is first wanted. One thread at a time may use
        it or them; whoever adds requests to it reads all its events."""
        return self._reader.engine if self._reader is not None else self.open_engine()

    def open_engine(
        self, options: EngineOptions | None = None, *, proposer: Proposer | None = None, trace: Trace | None = None
    ) -> Engine:
        """Make the engine anew, with other options or another proposer of drafts than the one that was loaded; cached
        prefixes are forgotten. ``trace`` is told every step's plan.

        Raises:
            UsageError: when the present one has requests that have not ended.
        """
        if self._reader is not None and self._reader.engine.has_work:
            raise UsageError("the engine has requests that have not ended; finish or abort them first")
        if options is not None:
            self._engine_options = options.for_model(
                self.spec,
                cache_tokens=self._num_blocks * self._block_size,
                threads=kernels.thread_count(),
                isa=kernels.isa(),
            )
        if proposer is None and self._make_proposer is not None:
            proposer = self._make_proposer()
        engine = Engine(
            lambda batch: self.forward(batch),
            num_blocks=self._num_blocks,
            block_size=self._block_size,
            budget=self._engine_options.budget,
            context_length=self.context_length,
            policy=self._engine_options.policy,
            proposer=proposer,
            acceptance=accept_by_ratio,
            trace=trace,
            forward_in_parts=self.forward_in_parts,
        )
        self._reader = Reader(engine)
        return engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            CheckpointError: when the checkpoint has none; token ids still work.
        """
        found = self._tokenizer.result()
        if found is None:
            raise CheckpointError(
                f"{self.checkpoint.folder} has no tokenizer.json, so it takes token ids only; "
                "copy the tokenizer files of the model into the folder"
            )
        return found

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer, as ``engine.stop_ids.read_stop_ids`` finds them."""
        return self._read_stop_ids(self._tokenizer.result())

    def read_text_files(self) -> None:
        """Read the tokenizer and what ends an answer now, where they are not yet.

        Raises:
            CheckpointError: when a file cannot be read, or names an end that is no token.
        """
        _ = self.stop_ids  # made of both, and kept

    @property
    def cache_sizes(self) -> CacheSizes:
        """The cache that its engine shares out."""
        return CacheSizes(
            block_size=self._block_size,
            num_blocks=self._num_blocks,
            kv_dtype=self._kv_dtype,
            prefix_caching=self._engine_options.prefix_caching,
        )

    @property
    def has_chat_template(self) -> bool:
        """Whether it takes conversations."""
        found = self._tokenizer.result()
        return found is not None and found.has_chat_template

    @property
    def grammars(self) -> "GrammarCompiler":
        """What compiles constraints on this model's answers, made with the default limits when it is first wanted."""
        return self._grammars if self._grammars is not None else self.open_grammars()

    def open_grammars(self, limits: GrammarLimits | None = None) -> "GrammarCompiler":
        """Make the compiler of constraints anew, with other limits; what it has cached is forgotten.

        Raises:
            CheckpointError: when the checkpoint has no tokenizer.
        """
        from flyweight.engine.grammar.compiler import GrammarCompiler  # takes a tenth of a second, and few need it

        self._grammars = GrammarCompiler(
            self.tokenizer, vocab_size=self.spec.vocab_size, stop_ids=self.stop_ids, limits=limits
        )
        return self._grammars

    def open_planner(self) -> SequencePlanner:
        """A planner of the whole cache, for who runs the model with ``forward`` and leaves its engine alone."""
        return SequencePlanner(FreeBlocks(self._num_blocks), block_size=self._block_size)

    def token_text(self, token_id: int) -> str:
        """A token as text, special ones too; its number where there is no tokenizer."""
        found = self._tokenizer.result()
        return str(token_id) if found is None else found.decode([token_id], skip_special_tokens=False)

    def forward(self, batch: Batch) -> Array:
        """Logits float32 (outputs, vocab_size) of the batch's ``output_rows``, of which there may be none."""
        if len(batch.output_rows):
            return self._runner.forward(batch)
        self._runner.hidden(batch)
        return np.zeros((0, self.spec.vocab_size), np.float32)

    def forward_in_parts(self, batch: Batch) -> Iterator[Array]:
        """The same rows one part after another, at most 64 MiB of logits at once."""
        hidden = self._runner.hidden(batch)
        rows = rows_at_once(self.spec)
        for first in range(0, len(batch.output_rows), rows):
            yield self._runner.logits(hidden[first : first + rows])

    def states(self, batch: Batch) -> Array:
        """What the head reads after the final norm, float32 (outputs, hidden size) of the batch's ``output_rows``."""
        norm = self.spec.final_norm
        if self._final_norm is None:
            self._final_norm = Weights.open(self.checkpoint, self.spec).norm(norm).astype(np.float32)
        x: Array = np.asarray(self._runner.hidden(batch), np.float32)
        scale = 1.0 / np.sqrt((x * x).mean(axis=1, keepdims=True) + norm.eps)
        found: Array = x * scale * (norm.weight_offset + self._final_norm)
        return found

    def score(
        self, sequences: Sequence[Sequence[int]], *, chunk_tokens: int = SCORE_TOKENS
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
        planner = SequencePlanner(self.engine.pool, block_size=self._block_size)
        yield from Scorer(self._runner, self.spec, planner).score(sequences, chunk_tokens=chunk_tokens)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt: text, a conversation (through the chat template), or ids as they are.

        Raises:
            UsageError: when it does not fit into the context or holds an id that the model does not have.
        """
        ids = encode_prompt(None if is_ids(prompt) else self.tokenizer, prompt)
        self._check_ids(ids)
        return ids

    def stream(
        self,
        prompt: Prompt,
        options: SamplingOptions | None = None,
        *,
        constraint: Constraint | None = None,
        salt: str = "",
    ) -> Generator[TextPiece, None, None]:
        """Answer one prompt; the pieces of text as they come, the last with the whole completion.

        Closing the generator stops the answer and gives its cache back. Several streams may be read in turns: their
        answers are made side by side.

        Fields of ``options`` left None are taken from ``default_options``. Keys and values of a beginning that an
        earlier prompt or answer of the same ``salt`` had are used again. ``constraint`` is as in ``ask``.

        Raises:
            UsageError: when the prompt leaves no room in the context, or the constraint cannot be kept, before anything
                is computed.
        """
        asked = self.ask(prompt, options, constraint=constraint, salt=salt)
        return (piece for _, piece in self._read([asked], None))

    def generate(
        self,
        prompts: Sequence[Prompt],
        options: SamplingOptions | Sequence[SamplingOptions] | None = None,
        *,
        constraint: Constraint | None = None,
        samples: int = 1,
        batch_size: int | None = None,
        salt: str = "",
        progress: Progress | None = None,
    ) -> list[Completion]:
        """Answer many prompts, in batches that change as answers end; completions in the order of the prompts.

        Args:
            options: for all prompts, or one for each.
            constraint: on every answer, as in ``ask``.
            samples: answers to each prompt, side by side in the result; they share the blocks of their prompt. With
                a seed each draws from a random stream of its own.
            batch_size: answers at once at most; default: what the engine's options say.
            salt: as in ``stream``.

        In float32, and in batch-invariant mode, every answer is the one that the prompt would get alone.

        Raises:
            UsageError: when a prompt leaves no room in the context, before anything is computed.
        """
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"batch_size={batch_size} is not allowed; choose 1 or more")
        each = [options] * len(prompts) if options is None or isinstance(options, SamplingOptions) else list(options)
        if len(each) != len(prompts):
            raise UsageError(f"{len(each)} options were given for {len(prompts)} prompts; give one, or one for each")
        asked = [
            self.ask(prompt, one, constraint=constraint, samples=samples, salt=salt)
            for prompt, one in zip(prompts, each, strict=True)
        ]
        budget = None
        if batch_size is not None:
            budget = StepBudget(tokens=self.engine.budget.tokens, sequences=batch_size)
        progress = progress if progress is not None else Silent()
        progress.start("answers", len(asked) * samples)
        completions: dict[int, Completion] = {}
        for place, piece in self._read(asked, budget):
            if piece.completion is not None:
                completions[place] = piece.completion
                progress.advance()
        progress.finish()
        return [completions[place] for place in range(len(asked) * samples)]

    def _read(self, asked: list[Asked], budget: StepBudget | None) -> Iterator[tuple[int, TextPiece]]:
        if self._reader is None:
            self.open_engine()
        assert self._reader is not None
        return self._reader.run(asked, budget)

    def ask(
        self,
        prompt: Prompt,
        options: SamplingOptions | None = None,
        *,
        constraint: Constraint | None = None,
        samples: int = 1,
        salt: str = "",
        shown_tokens: Sequence[str] = (),
    ) -> Asked:
        """What the engine is asked for an answer to a prompt, for those who add requests to it themselves.

        Args:
            constraint: what the answer must look like, compiled here when it is a ``ConstraintSpec``; else what
                ``grammars.compile`` has made of one.
            shown_tokens: special tokens that are part of the text.

        Raises:
            UsageError: when the prompt leaves no room in the context, an option names a token that is not there, or the
                constraint cannot be kept.
        """
        if samples < 1:
            raise UsageError(f"samples={samples} is not allowed; choose 1 or more")
        ids = self.encode(prompt)
        check_room(len(ids), self.context_length)
        resolved = (options if options is not None else SamplingOptions()).with_defaults(self.default_options)
        resolved.check_vocabulary(self.spec.vocab_size)
        allowed = resolved.allowed_token_ids
        ends = {*resolved.stop_token_ids, *(() if resolved.ignore_eos else self.stop_ids)}
        if allowed and resolved.min_tokens and ends.issuperset(allowed):
            raise UsageError(
                f"allowed_token_ids names only tokens that end the answer, which min_tokens={resolved.min_tokens} "
                "forbids at first; allow others, or leave min_tokens out"
            )
        request = Request(
            token_ids=tuple(ids),
            options=resolved,
            stop_ids=self.stop_ids,
            choosable=mask_of(allowed, self.spec.vocab_size) if allowed else None,
            bad_sequences=sequences_of(resolved.bad_words, self.tokenizer) if resolved.bad_words else (),
            prefix_caching=self._engine_options.prefix_caching,
            salt=salt,
            constraint=self.grammars.compile(constraint) if isinstance(constraint, ConstraintSpec) else constraint,
        )
        return Asked(request=request, answers=[self._answer(ids, resolved, shown_tokens) for _ in range(samples)])

    def _answer(self, prompt: list[int], options: SamplingOptions, shown: Sequence[str]) -> Answer:
        detokenizer = None
        found = self._tokenizer.result()
        if found is not None:
            detokenizer = found.detokenizer(prompt, shown=shown, skip_special_tokens=options.skip_special_tokens)
        return Answer(options.stop, detokenizer, includes_stop=options.include_stop_str_in_output)

    def _check_ids(self, ids: Sequence[int]) -> None:
        if len(ids) and not (min(ids) >= 0 and max(ids) < self.spec.vocab_size):
            wrong = next(index for index in ids if not 0 <= index < self.spec.vocab_size)
            raise UsageError(
                f"token id {wrong} is outside the model's vocabulary; ids go from 0 to {self.spec.vocab_size - 1}"
            )
