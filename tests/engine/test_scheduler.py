"""The scheduler as a pure function: random requests come, run, are preempted and leave, and every plan is judged by
rules that are written down here again, over a world without any sharing of blocks."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flyweight.engine.scheduler import (
    RequestState,
    Scheduler,
    SchedulerPolicy,
    SchedulerState,
    StepBudget,
    StepPlan,
)
from flyweight.errors import ResourceError, UsageError

NUM_BLOCKS, BLOCK_SIZE = 12, 4


@dataclass
class World:
    """Requests and their blocks, changed as plans say. ``begun`` and ``ended`` are ids in order."""

    scheduler: Scheduler
    running: list[RequestState] = field(default_factory=list)
    waiting: list[RequestState] = field(default_factory=list)
    free: list[int] = field(default_factory=lambda: list(range(NUM_BLOCKS)))
    begun: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    arrivals: int = 0

    def add(self, prompt: int, answer: int, priority: int = 0) -> int:
        request = RequestState(
            id=self.arrivals, arrival=self.arrivals, priority=priority, known=prompt, longest=prompt + answer
        )
        self.scheduler.check_fits(request.longest)
        self.arrivals += 1
        self.waiting.append(request)
        self.waiting.sort(key=lambda one: one.order)
        return request.id

    @property
    def state(self) -> SchedulerState:
        return SchedulerState(running=tuple(self.running), waiting=tuple(self.waiting), free_blocks=len(self.free))

    def step(self, budget: StepBudget) -> StepPlan:
        state = self.state
        plan = self.scheduler.plan(state, budget)
        assert plan == self.scheduler.plan(state, budget), "the same state and budget gave another plan"
        judge(self.scheduler, state, budget, plan)
        for one in [one for one in self.running if one.id in plan.preempted]:
            self.free.extend(one.blocks)
            self.running.remove(one)
            self.waiting.append(replace(one, blocks=(), computed=0, drafts=0, preemptions=one.preemptions + 1))
        for one in [one for one in self.waiting if one.id in plan.admitted]:
            self.waiting.remove(one)
            self.running.append(one)
            self.begun.append(one.id)
        self.waiting.sort(key=lambda one: one.order)
        for chunk in plan.chunks:
            [place] = [place for place, one in enumerate(self.running) if one.id == chunk.id]
            one = self.running[place]
            missing = -(-(chunk.start + chunk.count) // BLOCK_SIZE) - len(one.blocks)
            assert missing <= len(self.free), "the plan needs more blocks than are free"
            taken = tuple(self.free.pop() for _ in range(missing))
            computed = chunk.start + chunk.count - chunk.drafts
            known = one.known + (computed == one.known)
            self.running[place] = replace(one, computed=computed, known=known, blocks=one.blocks + taken)
        for one in [one for one in self.running if one.known >= one.longest]:
            self.end(one)
        return plan

    def end(self, one: RequestState) -> None:
        (self.running if one in self.running else self.waiting).remove(one)
        self.free.extend(one.blocks)
        self.ended.append(one.id)


def judge(scheduler: Scheduler, state: SchedulerState, budget: StepBudget, plan: StepPlan) -> None:
    running = {one.id: one for one in state.running}
    waiting = {one.id: one for one in state.waiting}
    chunks = {chunk.id: chunk for chunk in plan.chunks}
    survivors = [one for one in state.running if one.id not in plan.preempted]
    assert len(chunks) == len(plan.chunks)
    assert set(chunks) <= {one.id for one in survivors} | set(plan.admitted)
    assert set(plan.admitted) <= set(chunks)

    # Something happens, and nothing is computed twice or past its end.
    assert plan.chunks or plan.preempted or not (running or waiting)
    for chunk in plan.chunks:
        one = running.get(chunk.id) or waiting[chunk.id]
        assert chunk.start == one.computed
        assert 1 <= chunk.count <= one.known + one.drafts - one.computed
        assert chunk.drafts == max(0, chunk.start + chunk.count - one.known)

    # Running requests' newest tokens never wait; the budget holds for all else.
    newest = [one for one in survivors if one.known - one.computed == 1]
    assert all(one.id in chunks for one in newest)
    if not scheduler.policy.whole_prompts:
        assert sum(chunk.count for chunk in plan.chunks) <= max(budget.tokens, len(newest))
    assert len(survivors) + len(plan.admitted) <= max(budget.sequences, len(running))

    # Who loses its blocks is behind all who may lose them and keep them; no one does beyond the cap.
    may_lose = [one for one in survivors if one.preemptions < scheduler.policy.max_preemptions]
    for loser in plan.preempted:
        assert running[loser].preemptions < scheduler.policy.max_preemptions
        assert all(one.order < running[loser].order for one in may_lose)

    # Waiting requests begin in order and not beside a preemption; free blocks are left for those that run.
    assert list(plan.admitted) == [one.id for one in state.waiting][: len(plan.admitted)]
    assert not (plan.admitted and plan.preempted)
    if scheduler.policy.batching == "static" and running:
        assert not plan.admitted
    held = {one.id: -(-(c.start + c.count) // BLOCK_SIZE) if (c := chunks.get(one.id)) else len(one.blocks)
            for one in [*survivors, *(waiting[name] for name in plan.admitted)]}  # fmt: skip
    if not plan.preempted:
        free = state.free_blocks + sum(len(one.blocks) for one in survivors) - sum(held.values())
        assert free >= 0
        if plan.admitted and len(held) > 1:
            promised = sum(
                max(0, scheduler.blocks_promised(running.get(name) or waiting[name]) - held[name]) for name in held
            )
            assert free - promised >= scheduler.policy.watermark * NUM_BLOCKS
    kept = [running.get(name) or waiting[name] for name in held]
    lacking = sum(
        max(0, -(-(one.longest - 1) // BLOCK_SIZE) - held[one.id]) for one in kept if scheduler.is_protected(one)
    )
    assert lacking <= NUM_BLOCKS - sum(held.values()), "a protected request could run out of blocks"


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(Scheduler(SchedulerPolicy(), num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE))

    @initialize(
        batching=st.sampled_from(["continuous", "continuous", "static"]),
        long_prefill_tokens=st.sampled_from([0, 0, 3]),
        watermark=st.sampled_from([0.0, 0.1, 0.4]),
        max_preemptions=st.integers(0, 3),
        whole_prompts=st.booleans(),
    )
    def choose_policy(self, **options: object) -> None:
        if options["whole_prompts"]:
            options["max_preemptions"] = 0
        policy = SchedulerPolicy(**options)  # type: ignore[arg-type]
        self.world = World(Scheduler(policy, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE))

    @rule(prompt=st.integers(1, 40), answer=st.integers(1, 20), priority=st.integers(0, 2))
    def add(self, prompt: int, answer: int, priority: int) -> None:
        if prompt + answer - 1 > NUM_BLOCKS * BLOCK_SIZE:
            with pytest.raises(ResourceError, match=f"up to {prompt + answer} tokens does not fit into the KV cache"):
                self.world.add(prompt, answer, priority)
        else:
            self.world.add(prompt, answer, priority)

    @rule(prompts=st.lists(st.integers(1, 12), min_size=2, max_size=5), answer=st.integers(5, 30))
    def add_many(self, prompts: list[int], answer: int) -> None:
        for prompt in prompts:
            self.world.add(prompt, answer)

    @rule(which=st.integers(0, 20))
    def abort(self, which: int) -> None:
        everyone = [*self.world.running, *self.world.waiting]
        if everyone:
            self.world.end(everyone[which % len(everyone)])

    @rule(which=st.integers(0, 20), count=st.integers(1, 4))
    def draft(self, which: int, count: int) -> None:
        for place, one in enumerate(self.world.running):
            if place == which % len(self.world.running) and one.known - one.computed == 1:
                count = min(count, one.longest - one.known - 1)
                self.world.running[place] = replace(one, drafts=count)

    @rule(tokens=st.integers(1, 30), sequences=st.integers(1, 6), times=st.integers(1, 8))
    def step(self, tokens: int, sequences: int, times: int) -> None:
        for _ in range(times):
            self.world.step(StepBudget(tokens=tokens, sequences=sequences))
            self.world.running = [replace(one, drafts=0) for one in self.world.running]

    @invariant()
    def every_block_has_one_owner(self) -> None:
        owned = [block for one in self.world.running for block in one.blocks]
        assert sorted([*owned, *self.world.free]) == list(range(NUM_BLOCKS))
        assert not any(one.blocks for one in self.world.waiting)

    def teardown(self) -> None:
        for _ in range(5000):
            if not (self.world.running or self.world.waiting):
                return
            self.world.step(StepBudget(tokens=8, sequences=4))
        pytest.fail("requests did not end")


Life.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase


def world(**policy: object) -> World:
    options = SchedulerPolicy(**policy)  # type: ignore[arg-type]
    return World(Scheduler(options, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE))


def counts(plan: StepPlan) -> dict[int, int]:
    return {chunk.id: chunk.count for chunk in plan.chunks}


def test_decodes_go_on_while_a_long_prompt_comes_in_by_chunks() -> None:
    here = world()
    here.add(2, 10)
    here.step(StepBudget(tokens=8, sequences=4))
    here.add(20, 3)
    plans = [counts(here.step(StepBudget(tokens=8, sequences=4))) for _ in range(4)]
    assert plans == [{0: 1, 1: 7}, {0: 1, 1: 7}, {0: 1, 1: 6}, {0: 1, 1: 1}]


def test_requests_of_one_priority_begin_in_order_of_arrival_and_others_before_them() -> None:
    here = world()
    for _ in range(4):
        here.add(3, 2)
    urgent = here.add(3, 2, priority=-1)
    for _ in range(30):
        here.step(StepBudget(tokens=3, sequences=1))
    assert here.begun == [urgent, 0, 1, 2, 3]


def test_a_long_prompt_leaves_room_for_short_ones_and_takes_what_they_leave() -> None:
    here = world(long_prefill_tokens=4)
    here.add(20, 2)
    here.add(3, 2)
    assert counts(here.step(StepBudget(tokens=10, sequences=4))) == {0: 7, 1: 3}
    alone = world(long_prefill_tokens=4)
    alone.add(20, 2)
    assert counts(alone.step(StepBudget(tokens=10, sequences=4))) == {0: 10}


def test_the_last_to_come_is_preempted_first_and_begins_again_before_later_ones() -> None:
    here = world(watermark=0.0)
    for _ in range(3):
        here.add(14, 20)
    budget = StepBudget(tokens=60, sequences=4)
    lost: list[int] = []
    while not here.ended:
        lost += here.step(budget).preempted
    assert lost[0] == 2
    late = here.add(1, 1)
    while late not in here.ended:
        here.step(budget)
    assert here.begun.index(2, 3) < here.begun.index(late)


def test_nobody_is_preempted_more_often_than_the_cap() -> None:
    for cap in (0, 1, 2):
        here = world(watermark=0.0, max_preemptions=cap)
        for _ in range(6):
            here.add(6, 35)
        lost: list[int] = []
        while here.running or here.waiting:
            lost += here.step(StepBudget(tokens=20, sequences=6)).preempted
        assert max((lost.count(one) for one in lost), default=0) <= cap
        assert (cap > 0) == bool(lost)
        assert len(here.ended) == 6


def test_the_watermark_stays_free_when_others_run() -> None:
    for watermark, begun in ((0.0, 3), (0.3, 2)):
        here = world(watermark=watermark)
        for _ in range(3):
            here.add(16, 2)
        here.step(StepBudget(tokens=60, sequences=4))
        assert len(here.running) == begun
    alone = world(watermark=0.9)
    alone.add(40, 2)
    assert counts(alone.step(StepBudget(tokens=60, sequences=4))) == {0: 40}


def test_static_batching_begins_when_all_have_ended() -> None:
    here = world(batching="static")
    for answer in (2, 5, 2):
        here.add(1, answer)
    rows = [len(here.step(StepBudget(tokens=8, sequences=2)).chunks) for _ in range(7)]
    assert rows == [2, 2, 1, 1, 1, 1, 1]


def test_drafts_take_what_is_left_and_never_push_anyone_out() -> None:
    here = world(watermark=0.0)
    here.add(1, 30)
    here.add(1, 30)
    here.step(StepBudget(tokens=8, sequences=2))
    here.running = [replace(one, drafts=4) for one in here.running]
    assert counts(here.scheduler.plan(here.state, StepBudget(tokens=20, sequences=2))) == {0: 5, 1: 5}
    assert counts(here.scheduler.plan(here.state, StepBudget(tokens=5, sequences=2))) == {0: 4, 1: 1}
    full = SchedulerState(
        running=tuple(replace(one, known=4, computed=3) for one in here.running), waiting=(), free_blocks=0
    )
    plan = here.scheduler.plan(full, StepBudget(tokens=20, sequences=2))
    assert counts(plan) == {0: 1, 1: 1}
    assert plan.preempted == ()


def test_a_request_waits_for_a_block_that_another_is_computing() -> None:
    scheduler = Scheduler(SchedulerPolicy(), num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)
    same = [RequestState(id=i, arrival=i, known=10, longest=12, next_content="same") for i in range(3)]
    other = RequestState(id=3, arrival=3, known=10, longest=12, next_content="other")
    state = SchedulerState(running=(), waiting=(*same, other), free_blocks=NUM_BLOCKS)
    plan = scheduler.plan(state, StepBudget(tokens=100, sequences=4))
    assert plan.admitted == (0, 3)


def test_found_blocks_are_not_computed_and_count_only_where_nobody_holds_them() -> None:
    scheduler = Scheduler(SchedulerPolicy(watermark=0.0), num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)
    request = RequestState(id=0, arrival=0, known=11, longest=12, found=(5, 6), found_free=0)
    holder = RequestState(id=1, arrival=1, known=9, computed=8, longest=10, blocks=(5, 6))
    state = SchedulerState(running=(holder,), waiting=(request,), free_blocks=2)
    plan = scheduler.plan(state, StepBudget(tokens=100, sequences=4))
    assert [(chunk.id, chunk.start, chunk.count, chunk.found) for chunk in plan.chunks] == [
        (1, 8, 1, ()),
        (0, 8, 3, (5, 6)),
    ]
    tight = SchedulerState(running=(holder,), waiting=(replace(request, found_free=1),), free_blocks=2)
    assert scheduler.plan(tight, StepBudget(tokens=100, sequences=4)).admitted == ()


def test_a_running_prompt_takes_up_what_another_has_computed_meanwhile() -> None:
    scheduler = Scheduler(SchedulerPolicy(), num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)
    behind = RequestState(id=0, arrival=0, known=14, computed=5, longest=20, blocks=(1, 2), found=(7, 8))
    state = SchedulerState(running=(behind,), waiting=(), free_blocks=3)
    [chunk] = scheduler.plan(state, StepBudget(tokens=100, sequences=4)).chunks
    assert (chunk.start, chunk.count, chunk.found) == (12, 2, (7, 8))


def test_blocks_shared_with_others_are_not_counted_as_won_by_a_preemption() -> None:
    scheduler = Scheduler(SchedulerPolicy(watermark=0.0), num_blocks=4, block_size=BLOCK_SIZE)
    running = (
        RequestState(id=0, arrival=0, known=9, computed=8, longest=12, blocks=(0, 1)),
        RequestState(id=1, arrival=1, known=10, computed=9, longest=12, blocks=(0, 1, 2)),
        RequestState(id=2, arrival=2, known=9, computed=8, longest=12, blocks=(0, 1)),
    )
    plan = scheduler.plan(SchedulerState(running=running, waiting=(), free_blocks=0), StepBudget(tokens=9, sequences=4))
    assert plan.preempted == (2, 1), "the blocks of the last one are held by others too: it sets none free"
    assert counts(plan) == {0: 1}


def test_values_out_of_range_are_refused() -> None:
    for options, message in (
        ({"batching": "dynamic"}, "batching='dynamic' is unknown; choose continuous or static"),
        ({"watermark": 1.0}, "watermark=1.0 is out of range"),
        ({"max_preemptions": -1}, "max_preemptions=-1 is not allowed"),
        ({"long_prefill_tokens": -1}, "long_prefill_tokens=-1 is not allowed"),
    ):
        with pytest.raises(UsageError, match=message):
            SchedulerPolicy(**options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a step of 0 tokens does nothing"):
        StepBudget(tokens=0, sequences=1)
