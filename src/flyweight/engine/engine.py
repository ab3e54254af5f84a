"""The engine: requests of token ids in, events of token ids out, one step at a time.

It owns the block pool, the queue and the requests; the scheduler decides, the forward pass computes, the samplers
choose. It knows neither texts nor HTTP nor how logits are computed. One thread owns it: every call comes from there.
"""

import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal

from flyweight.engine.block_pool import BlockPool
from flyweight.engine.choosing import Turn, choose, possible_draft
from flyweight.engine.constraint import AllowedTokens, AnswerConstraint
from flyweight.engine.holdings import Holdings
from flyweight.engine.mask_worker import MaskWanted, MaskWorker
from flyweight.engine.metrics import EngineMetrics
from flyweight.engine.prompt_scores import Outputs, outputs_of, read_scores
from flyweight.engine.proposer import (
    NO_DRAFT,
    AcceptanceRule,
    DraftOutcome,
    DraftWanted,
    Proposer,
    accept_what_would_be_chosen,
)
from flyweight.engine.request import Event, FinishReason, LiveRequest, Request, RequestRecord, check_room, namespace_of
from flyweight.engine.sampling import TokenLogProbability
from flyweight.engine.scheduler import (
    Chunk,
    Scheduler,
    SchedulerPolicy,
    SchedulerState,
    StepBudget,
    StepPlan,
)
from flyweight.errors import FlyweightError, NonFiniteError, ResourceError, UsageError
from flyweight.formats.base import Array
from flyweight.runtime.batch import Batch
from flyweight.runtime.sequences import BatchRow, make_batch

Trace = Callable[[SchedulerState, StepBudget, StepPlan], None]


class Engine:
    """Answers requests.

    Args:
        forward: logits float32 (outputs, vocab) of a batch's ``output_rows``, of which there may be none.
        forward_in_parts: the same in consecutive parts of bounded size, for batches with many output rows; by default
            all at once.
        num_blocks, block_size: of the key-value cache that ``forward`` uses; all of it is the engine's.
        budget: what a step may do, unless ``step`` is told otherwise.
        context_length: tokens that a prompt and its answer may have together.
        proposer: guesses tokens ahead; ``acceptance`` is the rule that verifies them.
        trace: is told every plan and what it was made from, which can be replayed.
    """

    def __init__(
        self,
        forward: Callable[[Batch], Array],
        *,
        num_blocks: int,
        block_size: int,
        budget: StepBudget,
        context_length: int,
        policy: SchedulerPolicy | None = None,
        proposer: Proposer | None = None,
        acceptance: AcceptanceRule = accept_what_would_be_chosen,
        trace: Trace | None = None,
        forward_in_parts: Callable[[Batch], Iterable[Array]] | None = None,
    ) -> None:
        self.budget = budget
        self.context_length = context_length
        self.pool = BlockPool(num_blocks=num_blocks, block_size=block_size)
        self._forward = forward
        self._forward_in_parts = forward_in_parts if forward_in_parts is not None else lambda batch: [forward(batch)]
        self._holdings = Holdings(self.pool)
        self._scheduler = Scheduler(policy or SchedulerPolicy(), num_blocks=num_blocks, block_size=block_size)
        self._block_size = block_size
        self._proposer = proposer
        self._acceptance = acceptance
        self._trace = trace
        self._requests: dict[int, LiveRequest] = {}
        self._running: dict[int, LiveRequest] = {}
        self._waiting: list[LiveRequest] = []  # in order of priority and arrival
        self._next_id = 0
        self._masks = MaskWorker()
        self._finished: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()
        self._step_seconds = self._last_step_seconds = 0.0
        self._last_step_tokens = 0

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def add(self, request: Request) -> int:
        """Take a request into the queue; returns its id.

        Raises:
            UsageError: when the prompt is empty or leaves no room in the context.
            ResourceError: when it could never fit into the cache.
        """
        return self._add(request, namespace_of(request), stream=0)

    def add_samples(self, request: Request, count: int) -> tuple[int, ...]:
        """Take ``count`` requests for different answers to one prompt, whose blocks they share; returns their ids.

        The first is computed, the others find its full blocks (also without prefix caching, which then ends with
        these) and compute the last, partial one themselves. Each draws from a random stream of its own.

        Raises:
            UsageError, ResourceError: as ``add``; then none is taken.
        """
        if count < 1:
            raise UsageError(f"{count} samples are not allowed; choose 1 or more")
        namespace = namespace_of(request)
        if namespace is None and count > 1:
            namespace = f"samples {self._next_id}"
        return tuple(self._add(request, namespace, stream=place) for place in range(count))

    def _add(self, request: Request, namespace: str | None, *, stream: int) -> int:
        check_room(len(request.token_ids), self.context_length)
        longest = min(len(request.token_ids) + request.options.max_tokens, self.context_length)
        self._scheduler.check_fits(longest)
        ends = frozenset(request.options.stop_token_ids)
        if not request.options.ignore_eos:
            ends |= request.stop_ids
        live = LiveRequest(
            id=self._next_id,
            request=request,
            namespace=namespace,
            longest=longest,
            ends=ends,
            sampler=request.sampler(ends, stream=stream),
            constraint=None
            if request.constraint is None
            else AnswerConstraint(request.constraint, ends=ends, stop_ids=request.stop_ids),
            arrived=time.perf_counter(),
            known=list(request.token_ids),
            num_scored=len(request.token_ids) - 1 if request.prompt_logprobs is not None and not stream else 0,
        )
        self._next_id += 1
        self._requests[live.id] = live
        insort(self._waiting, live, key=lambda one: one.order)
        return live.id

    def abort(self, request: int) -> RequestRecord | None:
        """End a request now and give its blocks back; no event follows. What became of it, or None when it has ended
        already."""
        live = self._requests.get(request)
        if live is None:
            return None
        self._end(live, "abort")
        return live.record(time.perf_counter())

    def step(self, budget: StepBudget | None = None, *, only: Collection[int] | None = None) -> list[Event]:
        """Compute one step; the news it brought, in the order of the batch. Empty at once when there is nothing to do.

        When the forward pass raises, no token is lost: a next step computes the same again.

        Args:
            only: requests that may take part, the others stand still: to find out which of them makes a step fail.

        Raises:
            ResourceError: when no request can go on because others than the engine hold the cache.
        """
        if not self._requests:
            return []
        began = time.perf_counter()
        budget = budget if budget is not None else self.budget
        self._propose(budget)
        state = self._snapshot(budget)
        if only is not None:
            state = state.only(only)
        plan = self._scheduler.plan(state, budget)
        if self._trace is not None:
            self._trace(state, budget, plan)
        self._apply(plan, began)
        if not plan.chunks:
            if plan.preempted or only is not None:
                return []
            raise ResourceError(
                f"no request can go on: of {self.pool.num_blocks} cache blocks {self.pool.num_free} are free, and "
                "what holds the others is not a request"
            )
        constrained = [chunk for chunk in plan.chunks if self._wants_masks(chunk)]
        if not constrained:
            return self._commit(plan.chunks, self._compute(plan.chunks), {}, began)
        pending = self._masks.start([self._mask_wanted(chunk) for chunk in constrained])
        try:
            logits = self._compute(plan.chunks)
        finally:  # also when it raises: the next step asks the same constraints again
            masks = pending.collect()
        allowed = {chunk.id: found for chunk, found in zip(constrained, masks, strict=True)}
        return self._commit(plan.chunks, logits, allowed, began)

    def metrics(self) -> EngineMetrics:
        return EngineMetrics(
            running=len(self._running),
            waiting=len(self._waiting),
            num_blocks=self.pool.num_blocks,
            held_blocks=self.pool.num_blocks - self.pool.num_free,
            findable_blocks=self.pool.num_findable,
            prefix=self.pool.statistics,
            preemptions=self._totals["preemptions"],
            prompt_tokens=self._totals["prompt_tokens"],
            answer_tokens=self._totals["answer_tokens"],
            computed_tokens=self._totals["computed_tokens"],
            draft_tokens=self._totals["draft_tokens"],
            accepted_tokens=self._totals["accepted_tokens"],
            finished=dict(self._finished),
            steps=self._totals["steps"],
            step_seconds=self._step_seconds,
            last_step_seconds=self._last_step_seconds,
            last_step_tokens=self._last_step_tokens,
            mask_seconds=self._masks.seconds,
            mask_wait_seconds=self._masks.wait_seconds,
        )

    def forget_prefixes(self) -> None:
        """Forget the cached prefixes that no request holds."""
        self.pool.forget()

    def check_integrity(self) -> None:
        """Look for contradictions between the requests and the pool.

        Raises:
            IntegrityError: naming the first that is found.
        """
        self.pool.check_integrity([live.blocks for live in self._requests.values()])

    # What the scheduler sees

    def _propose(self, budget: StepBudget) -> None:
        if self._proposer is None:
            return
        wanted = [
            DraftWanted(id=live.id, token_ids=live.known, most=most, sampler=live.sampler)
            for live in self._running.values()
            if live.is_decoding and (most := min(live.longest - len(live.known) - 1, budget.tokens - 1)) > 0
        ]
        if not wanted:
            return
        for one, draft in zip(wanted, self._proposer.propose(wanted), strict=True):
            live = self._running[one.id]
            live.draft = possible_draft(draft.cut(one.most), live.constraint)

    def _snapshot(self, budget: StepBudget) -> SchedulerState:
        places = max(0, budget.sequences - len(self._running))
        # More than can begin, since some may have to wait for a prefix that another computes.
        candidates = self._waiting[: 2 * places]
        return SchedulerState(
            running=tuple(self._holdings.state(live) for live in self._running.values()),
            waiting=tuple(self._holdings.state(live) for live in candidates),
            free_blocks=self.pool.num_free,
        )

    # What a plan does

    def _apply(self, plan: StepPlan, now: float) -> None:
        for request in plan.preempted:
            self._preempt(self._running[request])
        for request in plan.admitted:
            self._begin(self._requests[request], now)
        for chunk in plan.chunks:
            self._holdings.hold_found(self._running[chunk.id], chunk.found)
        for chunk in plan.chunks:
            self._holdings.grow(self._running[chunk.id], chunk.start + chunk.count)

    def _begin(self, live: LiveRequest, now: float) -> None:
        self._waiting.remove(live)
        self._running[live.id] = live
        if not live.preemptions:
            live.began = now
            self._totals["prompt_tokens"] += live.num_prompt
            if live.namespace is not None:
                self.pool.count(queries=live.num_prompt, hits=0)

    def _preempt(self, live: LiveRequest) -> None:
        """Take all blocks of a running request; it waits where it stood, and computes again what is evicted."""
        self._release(live)
        live.preemptions += 1
        insort(self._waiting, live, key=lambda one: one.order)
        self._totals["preemptions"] += 1

    def _release(self, live: LiveRequest) -> None:
        self._holdings.release(live)
        live.draft = NO_DRAFT
        del self._running[live.id]
        if self._proposer is not None:
            self._proposer.forget(live.id)

    def _compute(self, chunks: Sequence[Chunk]) -> Array:
        """The logits to choose from, float32 (rows, vocab), chunk after chunk."""
        outputs = [outputs_of(self._running[chunk.id], chunk) for chunk in chunks]
        batch = self._batch(chunks, outputs)
        if not any(one.targets for one in outputs):
            return self._forward(batch)
        return read_scores(outputs, self._forward_in_parts(batch))

    def _batch(self, chunks: Sequence[Chunk], outputs: Sequence[Outputs]) -> Batch:
        rows = []
        for chunk, wanted in zip(chunks, outputs, strict=True):
            live = self._running[chunk.id]
            stop = chunk.start + chunk.count - chunk.drafts
            rows.append(
                BatchRow(
                    token_ids=[*live.known[chunk.start : stop], *live.draft.token_ids[: chunk.drafts]],
                    start=chunk.start,
                    blocks=live.blocks,
                    num_outputs=wanted.count,
                )
            )
        return make_batch(rows, self._block_size)

    def _wants_masks(self, chunk: Chunk) -> bool:
        live = self._running[chunk.id]
        return live.constraint is not None and chunk.start + chunk.count - chunk.drafts == len(live.known)

    def _mask_wanted(self, chunk: Chunk) -> MaskWanted:
        live = self._running[chunk.id]
        assert live.constraint is not None
        return MaskWanted(constraint=live.constraint, drafts=live.draft.token_ids[: chunk.drafts])

    # What a step brought

    def _commit(
        self, chunks: Sequence[Chunk], logits: Array, allowed: Mapping[int, AllowedTokens | None], began: float
    ) -> list[Event]:
        seconds = time.perf_counter() - began
        advanced: list[Chunk] = []
        for chunk in chunks:
            live = self._running[chunk.id]
            live.spend(seconds)
            live.computed = chunk.start + chunk.count - chunk.drafts
            self._holdings.enter(live)
            if live.computed == len(live.known):
                advanced.append(chunk)
        events: list[Event] = []
        outcomes: list[DraftOutcome] = []
        turns = [self._turn(chunk, allowed.get(chunk.id)) for chunk in advanced]
        for chunk, chosen in zip(advanced, choose(turns, logits, self._acceptance), strict=True):
            live = self._running[chunk.id]
            if isinstance(chosen, NonFiniteError) and self._holdings.distrust(live):
                self._preempt(live)
                continue
            if isinstance(chosen, FlyweightError):
                events.append(self._finish(live, (), "error", error=chosen))
                continue
            self._holdings.convict(live)
            if chunk.drafts:
                outcomes.append(self._count_drafts(live, chunk.drafts, len(chosen) - 1))
            events.append(self._extend(live, chosen))
        tokens = sum(chunk.count for chunk in chunks)
        self._count_step(tokens, time.perf_counter() - began)
        if self._proposer is not None:
            self._proposer.observe(outcomes, batch_tokens=tokens, seconds=self._last_step_seconds)
        return events

    def _turn(self, chunk: Chunk, allowed: AllowedTokens | None) -> Turn:
        live = self._running[chunk.id]
        return Turn(
            sampler=live.sampler,
            draft=live.draft.cut(chunk.drafts),
            allowed=allowed,
            failure=None if live.constraint is None else live.constraint.failure,
        )

    def _count_drafts(self, live: LiveRequest, proposed: int, accepted: int) -> DraftOutcome:
        live.draft_tokens += proposed
        live.accepted_tokens += accepted
        self._totals["draft_tokens"] += proposed
        self._totals["accepted_tokens"] += accepted
        return DraftOutcome(id=live.id, proposed=proposed, accepted=accepted)

    def _extend(self, live: LiveRequest, chosen: Sequence[int]) -> Event:
        """Append chosen tokens up to the one that ends the answer, or completes what its constraint asks for; keep
        what is computed of them."""
        scores: tuple[TokenLogProbability, ...] = ()
        if len(live.known) == live.num_prompt:
            live.first_token = time.perf_counter()
            scores = tuple(live.prompt_scores)
        live.draft = NO_DRAFT
        fresh: list[int] = []
        reason: FinishReason | None = None
        is_complete = False
        for token in chosen:
            fresh.append(token)
            is_end = token in live.ends or (live.constraint is not None and token in live.request.stop_ids)
            is_complete = not is_end and live.constraint is not None and live.constraint.push(token)
            if is_end or is_complete:
                reason = "stop"
            elif len(live.known) + len(fresh) >= live.longest:
                reason = "length"
            if reason is not None:
                break
        live.known.extend(fresh)
        live.computed += len(fresh) - 1
        self._totals["answer_tokens"] += len(fresh)
        self._holdings.enter(live)
        if live.constraint is not None and live.constraint.failure is not None:
            return self._finish(live, (), "error", error=live.constraint.failure)
        if reason is not None:
            return self._finish(live, tuple(fresh), reason, is_complete=is_complete, scores=scores)
        self._holdings.trim(live)
        return Event(
            id=live.id,
            token_ids=tuple(fresh),
            log_probabilities=live.last_log_probabilities(len(fresh)),
            prompt_log_probabilities=scores,
        )

    def _finish(
        self,
        live: LiveRequest,
        token_ids: tuple[int, ...],
        reason: FinishReason,
        *,
        error: FlyweightError | None = None,
        is_complete: bool = False,
        scores: tuple[TokenLogProbability, ...] = (),
    ) -> Event:
        self._end(live, reason)
        return Event(
            id=live.id,
            token_ids=token_ids,
            log_probabilities=live.last_log_probabilities(len(token_ids)),
            prompt_log_probabilities=scores,
            reason=reason,
            record=live.record(time.perf_counter()),
            error=error,
            is_complete=is_complete,
        )

    def _end(self, live: LiveRequest, reason: FinishReason | Literal["abort"]) -> None:
        if live.id in self._running:
            self._release(live)
        else:
            self._waiting.remove(live)
        del self._requests[live.id]
        self._finished[reason] += 1

    def _count_step(self, tokens: int, seconds: float) -> None:
        self._totals["steps"] += 1
        self._totals["computed_tokens"] += tokens
        self._step_seconds += seconds
        self._last_step_seconds, self._last_step_tokens = seconds, tokens
