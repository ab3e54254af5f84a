"""What is asked of the engine and what it tells: requests, events, and one request's state while it lives.

Token ids only: texts, templates and stop strings live in front of the engine.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flyweight.engine.block_pool import content_of
from flyweight.engine.constraint import AnswerConstraint, ConstraintFactory
from flyweight.engine.proposer import NO_DRAFT, Draft
from flyweight.engine.sampling import Sampler, SamplingOptions, TokenLogProbability
from flyweight.engine.scheduler import RequestState
from flyweight.errors import FlyweightError, UsageError

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One answer that is wanted.

    Attributes:
        token_ids: the prompt, at least one token.
        options: how tokens are chosen, complete (no field that means the model's default); ``stop`` strings in it are
            not looked at here.
        stop_ids: tokens that end the answer, unless the options say ignore_eos.
        priority: smaller goes first.
        prefix_caching: whether blocks of earlier requests are used, and its own kept for later ones.
        salt: only requests with the same salt share cached blocks.
        constraint: makes the state that says which tokens may follow, one for each answer; None where all may.
        choosable: uint32 (ceil(vocab / 32),), a bit for each token that may be chosen at all; None where all may.
        bad_sequences: of tokens that the answer must not hold.
        prompt_logprobs: report the log probability of every prompt token behind the first, and of so many of the most
            likely in its place; None not. The whole prompt is computed then, whatever the prefix cache holds.
    """

    token_ids: tuple[int, ...]
    options: SamplingOptions
    stop_ids: frozenset[int] = frozenset()
    priority: int = 0
    prefix_caching: bool = True
    salt: str = ""
    constraint: ConstraintFactory | None = None
    choosable: NDArray[np.uint32] | None = field(default=None, compare=False)
    bad_sequences: tuple[tuple[int, ...], ...] = ()
    prompt_logprobs: int | None = None

    def sampler(self, ends: frozenset[int], *, stream: int) -> Sampler:
        """What chooses the tokens of its answer number ``stream``, which ``ends`` end."""
        return Sampler(
            self.options,
            self.token_ids,
            stop_ids=ends,
            choosable=self.choosable,
            bad_sequences=self.bad_sequences,
            stream=stream,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestRecord:
    """What became of a request. Times are seconds of ``time.perf_counter``.

    Attributes:
        arrived, began, first_token, finished: when it was added, first computed, answered first, and ended.
        prefill_seconds, decode_seconds: of the steps that it took part in until its first token, and after; steps
            are shared with others.
        prompt_tokens, answer_tokens: counts.
        cached_tokens: prompt tokens that were found in the prefix cache when it began.
        preemptions: how often it had to begin again.
        draft_tokens, accepted_tokens: guessed tokens that were verified, and those that were right.
    """

    arrived: float
    began: float
    first_token: float
    finished: float
    prefill_seconds: float
    decode_seconds: float
    prompt_tokens: int
    answer_tokens: int
    cached_tokens: int
    preemptions: int
    draft_tokens: int
    accepted_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """News of one request: new tokens, in order, with their log probabilities where the options ask for them. The last
    event says why it ended; ``error`` comes with the reason ``error``. ``is_complete`` goes with the reason ``stop``
    where a constraint was fulfilled: the last token is then part of the answer, and not one that ends it. The first has
    ``prompt_log_probabilities`` where the request wants them; of several samples, those of the first sample."""

    id: int
    token_ids: tuple[int, ...]
    log_probabilities: tuple[TokenLogProbability, ...] = ()
    prompt_log_probabilities: tuple[TokenLogProbability, ...] = ()
    reason: FinishReason | None = None
    record: RequestRecord | None = None
    error: FlyweightError | None = None
    is_complete: bool = False


@dataclass(kw_only=True, slots=True, eq=False)
class LiveRequest:
    """A request from its arrival to its end. ``known`` begins with the prompt; ``namespace`` is where its contents are
    looked for and entered, None for nowhere; ``ends`` are the tokens that end it; ``num_entered`` of its blocks were
    made findable. ``written`` and ``suspected`` are serial numbers of contents: those that it has computed, and those
    of others without which it tries whether its logits are finite."""

    id: int
    request: Request
    namespace: str | None
    longest: int
    ends: frozenset[int]
    sampler: Sampler
    arrived: float
    known: list[int]
    constraint: AnswerConstraint | None = None
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    num_entered: int = 0
    written: list[int] = field(default_factory=list)
    suspected: tuple[int, ...] = ()
    draft: Draft = NO_DRAFT
    began: float = 0.0
    first_token: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    cached_tokens: int = 0
    preemptions: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    num_scored: int = 0  # tokens of the prompt whose log probabilities are wanted
    prompt_scores: list[TokenLogProbability] = field(default_factory=list)
    _contents: list[bytes] = field(default_factory=list)

    @property
    def order(self) -> tuple[int, int]:
        return self.request.priority, self.id

    @property
    def num_prompt(self) -> int:
        return len(self.request.token_ids)

    @property
    def is_decoding(self) -> bool:
        """Whether only its newest token is missing from the cache."""
        return len(self.known) - self.computed == 1

    @property
    def wants_scores(self) -> bool:
        """Whether log probabilities of its prompt are still to be computed."""
        return len(self.prompt_scores) < self.num_scored

    def content(self, index: int, block_size: int) -> bytes:
        """The tokens of its ``index``-th block, all known, as the pool compares them."""
        for place in range(len(self._contents), index + 1):
            self._contents.append(content_of(self.known[place * block_size : (place + 1) * block_size]))
        return self._contents[index]

    def last_log_probabilities(self, count: int) -> tuple[TokenLogProbability, ...]:
        """Of the last ``count`` tokens of the answer so far; empty where they are not asked for."""
        stop = len(self.known) - self.num_prompt
        return tuple(self.sampler.log_probabilities[stop - count : stop])

    def state(
        self,
        *,
        blocks: tuple[int, ...],
        found: tuple[int, ...],
        found_free: int,
        next_content: Hashable | None,
    ) -> RequestState:
        """What the scheduler needs to know."""
        return RequestState(
            id=self.id,
            priority=self.request.priority,
            arrival=self.id,
            known=len(self.known),
            drafts=len(self.draft.token_ids),
            computed=self.computed,
            longest=self.longest,
            blocks=blocks,
            found=found,
            found_free=found_free,
            next_content=next_content,
            preemptions=self.preemptions,
        )

    def spend(self, seconds: float) -> None:
        """Count the time of a step that it took part in."""
        if len(self.known) == self.num_prompt:
            self.prefill_seconds += seconds
        else:
            self.decode_seconds += seconds

    def record(self, finished: float) -> RequestRecord:
        return RequestRecord(
            arrived=self.arrived,
            began=self.began,
            first_token=self.first_token,
            finished=finished,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=self.decode_seconds,
            prompt_tokens=self.num_prompt,
            answer_tokens=len(self.known) - self.num_prompt,
            cached_tokens=self.cached_tokens,
            preemptions=self.preemptions,
            draft_tokens=self.draft_tokens,
            accepted_tokens=self.accepted_tokens,
        )


def namespace_of(request: Request) -> str | None:
    """Where a request's contents are looked for: with those of its salt, or nowhere."""
    return f"salt {request.salt}" if request.prefix_caching else None


def check_room(num_tokens: int, context_length: int) -> None:
    """Raise UsageError unless a prompt of so many tokens leaves room for an answer in the context."""
    if num_tokens == 0:
        raise UsageError("the prompt has no tokens; give it at least one character")
    if num_tokens >= context_length:
        raise UsageError(
            f"the prompt has {num_tokens} tokens and the context holds {context_length}, so there is no room for an "
            f"answer; shorten the prompt by at least {num_tokens - context_length + 1} tokens"
        )
