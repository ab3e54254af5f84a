"""Which requests compute which of their tokens in the next step: a pure function of values.

There is no prefill phase and no decode phase. Every request has tokens computed (their keys and values are in the
cache) that must catch up with the tokens known (prompt, answer so far, drafts); a step gives each some. That one rule
covers prompts in chunks, prefixes found in the cache, drafts to verify, and requests that resume after a preemption.

The order of a step: every running request's newest token; then drafts and what running prompts lack; then waiting
requests, by priority and arrival, while tokens, places and cache blocks last. Nothing here touches blocks, arrays or
clocks: the same state and budget give the same plan, so a recorded state replays.
"""

import math
from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass, replace
from typing import Literal

from flyweight.errors import ResourceError, UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerPolicy:
    """How requests share steps and cache.

    Raises:
        UsageError: when a value is outside its range.
    """

    batching: Literal["continuous", "static"] = "continuous"
    """``static`` begins new requests only when none is running: for comparison."""

    long_prefill_tokens: int = 0
    """Tokens of one prompt in a step at most while others could use the rest; 0 means no such limit."""

    whole_prompts: bool = False
    """Never cut a prompt into chunks (for models whose rotary frequencies depend on the length)."""

    watermark: float = 0.01
    """0 to below 1: share of the cache that a beginning request leaves free for the running ones to grow."""

    max_preemptions: int = 3
    """0 or more: a request preempted so often begins again only when its whole length fits, and then keeps its
    blocks."""

    def __post_init__(self) -> None:
        if self.batching not in ("continuous", "static"):
            raise UsageError(f"batching={self.batching!r} is unknown; choose continuous or static")
        if self.long_prefill_tokens < 0:
            raise UsageError(f"long_prefill_tokens={self.long_prefill_tokens} is not allowed; choose 0 or more")
        if not 0.0 <= self.watermark < 1.0:
            raise UsageError(f"watermark={self.watermark} is out of range; choose 0 to below 1")
        if self.max_preemptions < 0:
            raise UsageError(f"max_preemptions={self.max_preemptions} is not allowed; choose 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBudget:
    """What one step may do: tokens computed and requests running, both at most. Newest tokens of running requests
    are computed even beyond it.

    Raises:
        UsageError: when a value is below 1.
    """

    tokens: int
    sequences: int

    def __post_init__(self) -> None:
        for name in ("tokens", "sequences"):
            if getattr(self, name) < 1:
                raise UsageError(f"a step of {getattr(self, name)} {name} does nothing; choose 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestState:
    """One request as the scheduler sees it.

    Attributes:
        id: its name.
        priority: smaller goes first.
        arrival: place among all requests that ever came.
        known: tokens of its prompt and answer so far.
        drafts: guessed tokens after these, which a step may verify.
        computed: known tokens whose keys and values are in the cache; always fewer than known.
        longest: tokens that it may come to know; the last of them is never computed.
        blocks: the cache blocks it holds.
        found: blocks of the prefix cache that hold what follows its full blocks, and can be had for nothing.
        found_free: how many of these nobody holds now.
        next_content: names the content of the full block that it would compute next, or None. Two requests with the
            same name would compute the same.
        preemptions: how often it lost its blocks.
    """

    id: int
    priority: int = 0
    arrival: int
    known: int
    drafts: int = 0
    computed: int = 0
    longest: int
    blocks: tuple[int, ...] = ()
    found: tuple[int, ...] = ()
    found_free: int = 0
    next_content: Hashable | None = None
    preemptions: int = 0

    @property
    def order(self) -> tuple[int, int]:
        """Who goes first: the smallest."""
        return self.priority, self.arrival


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerState:
    """All that a plan depends on beside the budget.

    Attributes:
        running: requests that hold their place, in any order.
        waiting: the head of the queue, in order of priority and arrival; those behind it are not considered.
        free_blocks: blocks that can be taken.
    """

    running: tuple[RequestState, ...]
    waiting: tuple[RequestState, ...]
    free_blocks: int

    def only(self, requests: Collection[int]) -> "SchedulerState":
        """The same without the other requests; what they hold stays theirs."""
        return replace(
            self,
            running=tuple(one for one in self.running if one.id in requests),
            waiting=tuple(one for one in self.waiting if one.id in requests),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Tokens ``start`` to ``start + count`` of a request, the last ``drafts`` of them guessed. Where ``start`` is
    beyond what it has computed, what lies between is taken from the prefix cache: its blocks from the one that holds
    its first token not computed are replaced by those ``found``."""

    id: int
    start: int
    count: int
    drafts: int = 0
    found: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPlan:
    """What a step does: first the preempted give up all their blocks, then the chunks' found blocks are held, then
    what else the chunks need is taken. ``admitted`` are the waiting requests among them, which run from now on."""

    chunks: tuple[Chunk, ...]
    admitted: tuple[int, ...]
    preempted: tuple[int, ...]


class Scheduler:
    """Plans steps over a cache of ``num_blocks`` blocks of ``block_size`` tokens."""

    def __init__(self, policy: SchedulerPolicy, *, num_blocks: int, block_size: int) -> None:
        self.policy = policy
        self.num_blocks = num_blocks
        self.block_size = block_size

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def check_fits(self, longest: int) -> None:
        """Refuse a request that could never run to its end.

        Raises:
            ResourceError: when ``longest`` tokens do not fit into the whole cache.
        """
        if self.blocks_for(longest - 1) > self.num_blocks:
            raise ResourceError(
                f"a request of up to {longest} tokens does not fit into the KV cache of "
                f"{self.num_blocks * self.block_size}; shorten the prompt, lower max_tokens or raise the cache size"
            )

    def is_protected(self, request: RequestState) -> bool:
        """Whether it keeps its blocks until it ends."""
        return request.preemptions >= self.policy.max_preemptions

    def blocks_promised(self, request: RequestState) -> int:
        """Blocks that a request must be able to get once it runs: for all it knows, or for its whole length."""
        return self.blocks_for(request.longest - 1 if self.is_protected(request) else request.known)

    def plan(self, state: SchedulerState, budget: StepBudget) -> StepPlan:
        """The next step. A state with running or waiting requests always gives one that makes progress, as long as
        all blocks that the running do not hold are free."""
        return _Planning(self, state, budget).plan()


@dataclass(kw_only=True, slots=True)
class _Row:
    """A running request while the step is planned. ``known_blocks`` are held or found, ``new_blocks`` will be taken."""

    state: RequestState
    start: int
    known_blocks: tuple[int, ...]
    new_blocks: int = 0
    count: int = 0
    drafts: int = 0
    found: tuple[int, ...] = ()

    @property
    def num_blocks(self) -> int:
        return len(self.known_blocks) + self.new_blocks

    @property
    def num_missing(self) -> int:
        return self.state.known - self.start - self.count

    def chunk(self) -> Chunk:
        return Chunk(id=self.state.id, start=self.start, count=self.count, drafts=self.drafts, found=self.found)


class _Planning:
    """The working of one plan: rows, and the tokens and blocks that are left."""

    def __init__(self, scheduler: Scheduler, state: SchedulerState, budget: StepBudget) -> None:
        self._scheduler = scheduler
        self._policy = scheduler.policy
        self._block_size = scheduler.block_size
        self._state = state
        self._budget = budget
        self._free = state.free_blocks
        self._tokens = budget.tokens
        running = sorted(state.running, key=lambda request: request.order)
        self._rows = {one.id: _Row(state=one, start=one.computed, known_blocks=one.blocks) for one in running}
        self._protected = [row for row in self._rows.values() if scheduler.is_protected(row.state)]
        self._admitted: list[int] = []
        self._preempted: list[int] = []
        self._has_prompt = False

    def plan(self) -> StepPlan:
        rows = list(self._rows.values())
        newest = [row for row in rows if row.num_missing == 1]
        prompts = [row for row in rows if row.num_missing > 1]
        self._tokens = max(0, self._tokens - len(newest))
        for row in newest:
            self._decode(row)
        for row in prompts:
            self._prefill(row)
        if not self._preempted:
            self._admit()
            self._top_up()
        return StepPlan(
            chunks=tuple(row.chunk() for row in self._rows.values() if row.count),
            admitted=tuple(self._admitted),
            preempted=tuple(self._preempted),
        )

    def _decode(self, row: _Row) -> None:
        """The newest token, for which blocks are made free, and drafts as far as tokens and free blocks last."""
        if not self._make_room(row):
            return
        if row.state.drafts:
            row.drafts = max(0, min(row.state.drafts, self._tokens, self._fitting(row) - 1))
        self._compute(row, 1 + row.drafts)
        self._tokens -= row.drafts

    def _prefill(self, row: _Row) -> None:
        """Take what the prefix cache has found meanwhile, then compute a chunk of the rest."""
        if row.state.id not in self._rows:
            return
        if row.state.found and row.state.found_free <= self._available(row):
            first = row.state.computed // self._block_size
            row.known_blocks = (*row.known_blocks[:first], *row.state.found)
            row.start = len(row.known_blocks) * self._block_size
            row.found = row.state.found
            self._free -= row.state.found_free
        length = self._chunk_length(row.num_missing)
        if length and self._make_room(row):
            length = min(length, self._fitting(row))
            if self._policy.whole_prompts and length < row.num_missing:
                return
            self._compute_prompt(row, length)

    def _admit(self) -> None:
        """Begin waiting requests in order, until one does not fit. One that is about to compute the same block as
        another in this step waits for it, and finds it in the cache in the next."""
        if self._policy.batching == "static" and self._state.running:
            return
        in_work = {row.state.next_content for row in self._rows.values() if row.count}
        for request in self._state.waiting:
            if len(self._rows) >= self._budget.sequences or self._tokens < 1:
                return
            if request.next_content is not None and request.next_content in in_work:
                continue
            needed = self._scheduler.blocks_promised(request) - len(request.found) + request.found_free
            if needed > self._free - self._kept_free():
                return
            row = _Row(
                state=request,
                start=len(request.found) * self._block_size,
                known_blocks=request.found,
                found=request.found,
            )
            length = self._chunk_length(row.num_missing)
            if not length:
                return
            self._rows[request.id] = row
            self._admitted.append(request.id)
            if self._scheduler.is_protected(request):
                self._protected.append(row)
            self._free -= request.found_free
            self._compute_prompt(row, length)
            in_work.add(request.next_content)

    def _top_up(self) -> None:
        """Give tokens that are left to the prompts that were cut for the sake of others, without preempting."""
        for row in self._rows.values():
            if self._tokens < 1:
                return
            length = min(row.num_missing, self._tokens, self._fitting(row) - row.count)
            if row.count and length > 0:
                self._compute_prompt(row, length)

    def _chunk_length(self, missing: int) -> int:
        """Tokens of a prompt that the budget allows in this step."""
        if self._policy.whole_prompts:
            return missing if missing <= self._tokens or not self._has_prompt else 0
        length = min(missing, self._tokens)
        if self._policy.long_prefill_tokens and len(self._rows) + len(self._state.waiting) > 1:
            length = min(length, self._policy.long_prefill_tokens)
        return length

    def _kept_free(self) -> int:
        """Blocks that a beginning request must leave: those promised to running ones, and the watermark."""
        if not self._rows:
            return 0
        promised = sum(self._lacking(row) for row in self._rows.values())
        return promised + math.ceil(self._policy.watermark * self._scheduler.num_blocks)

    def _lacking(self, row: _Row) -> int:
        return max(0, self._scheduler.blocks_promised(row.state) - row.num_blocks)

    def _available(self, row: _Row) -> int:
        """Blocks that a running request may take: not those that others were promised for their whole length."""
        return self._free - sum(self._lacking(one) for one in self._protected if one is not row)

    def _fitting(self, row: _Row) -> int:
        """Tokens after its start that a row's own and the available blocks hold."""
        return (row.num_blocks + max(0, self._available(row))) * self._block_size - row.start

    def _compute(self, row: _Row, count: int) -> None:
        missing = self._scheduler.blocks_for(row.start + count) - row.num_blocks
        if missing > 0:
            row.new_blocks += missing
            self._free -= missing
        row.count = count

    def _compute_prompt(self, row: _Row, length: int) -> None:
        self._compute(row, row.count + length)
        self._tokens = max(0, self._tokens - length)
        self._has_prompt = True

    def _make_room(self, row: _Row) -> bool:
        """Preempt the last in order until one more token of ``row`` fits; False when that was ``row`` itself."""
        if row.state.id not in self._rows:
            return False
        while self._fitting(row) < (row.num_missing if self._policy.whole_prompts else 1):
            victims = [one for one in self._rows.values() if not self._scheduler.is_protected(one.state)]
            if not victims:
                return False
            victim = max(victims, key=lambda one: one.state.order)
            self._preempt(victim)
            if victim is row:
                return False
        return True

    def _preempt(self, victim: _Row) -> None:
        holders = Counter(block for row in self._rows.values() for block in row.known_blocks)
        self._free += victim.new_blocks + sum(holders[block] == 1 for block in victim.known_blocks)
        self._tokens += victim.count if victim.state.known - victim.start > 1 else victim.drafts
        del self._rows[victim.state.id]
        self._preempted.append(victim.state.id)
