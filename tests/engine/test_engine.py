"""The engine end to end on a model whose answers can be foretold: whatever runs beside a request, is found in the
cache, preempted, guessed or aborted, its answer is the one it would get alone."""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flyweight.engine.engine import Engine
from flyweight.engine.proposer import Draft, DraftOutcome, DraftWanted
from flyweight.engine.request import Event, Request
from flyweight.engine.sampling import SamplingOptions
from flyweight.engine.scheduler import Scheduler, SchedulerPolicy, StepBudget
from flyweight.errors import FlyweightError, ResourceError, UsageError
from tests.support.foretold import END, VOCAB, Foretold, foretold, next_token

BLOCK_SIZE = 4


class Guesser:
    """Guesses the next tokens right or wrong, at random; ``outcomes`` are what it was told."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.outcomes: list[DraftOutcome] = []
        self.forgotten: list[int] = []

    def propose(self, wanted: Sequence[DraftWanted]) -> Sequence[Draft]:
        drafts = []
        for one in wanted:
            tokens = list(one.token_ids)
            for _ in range(self.chance.randrange(one.most + 1)):
                right = self.chance.random() < 0.7
                tokens.append(next_token(tokens) if right else self.chance.randrange(48))
            drafts.append(Draft(token_ids=tuple(tokens[len(one.token_ids) :])))
        return drafts

    def observe(self, outcomes: Sequence[DraftOutcome], *, batch_tokens: int, seconds: float) -> None:
        self.outcomes += outcomes

    def forget(self, request: int) -> None:
        self.forgotten.append(request)


def make_engine(num_blocks: int = 12, *, tokens: int = 16, sequences: int = 4, **options: Any) -> Engine:
    return Engine(
        Foretold(BLOCK_SIZE).forward,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        budget=StepBudget(tokens=tokens, sequences=sequences),
        context_length=num_blocks * BLOCK_SIZE,
        **options,
    )


def request(prompt: Sequence[int], max_tokens: int = 8, **fields: Any) -> Request:
    return Request(
        token_ids=tuple(prompt),
        options=SamplingOptions(max_tokens=max_tokens),
        stop_ids=frozenset([END]),
        **fields,
    )


def drain(engine: Engine, budget: StepBudget | None = None) -> list[Event]:
    events = []
    for _ in range(5000):
        if not engine.has_work:
            return events
        events += engine.step(budget)
        engine.check_integrity()
    raise AssertionError("requests did not end")


def answers(events: Sequence[Event]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for event in events:
        found.setdefault(event.id, []).extend(event.token_ids)
    return found


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine = make_engine()
        self.wanted: dict[int, tuple[Sequence[int], int]] = {}
        self.got: dict[int, list[int]] = {}

    @initialize(
        guesses=st.booleans(),
        batching=st.sampled_from(["continuous", "continuous", "static"]),
        watermark=st.sampled_from([0.0, 0.2]),
        max_preemptions=st.integers(0, 3),
        long_prefill_tokens=st.sampled_from([0, 3]),
    )
    def choose(self, guesses: bool, **policy: Any) -> None:
        proposer = Guesser(1) if guesses else None
        self.engine = make_engine(policy=SchedulerPolicy(**policy), proposer=proposer)

    @rule(
        shared=st.integers(0, 24),
        own=st.lists(st.integers(0, 47), min_size=1, max_size=6),
        max_tokens=st.integers(1, 17),
        samples=st.sampled_from([1, 1, 1, 3]),
        priority=st.integers(0, 1),
        salt=st.sampled_from(["", "", "x"]),
        prefix_caching=st.sampled_from([True, True, False]),
    )
    def add(
        self,
        shared: int,
        own: list[int],
        max_tokens: int,
        samples: int,
        priority: int,
        salt: str,
        prefix_caching: bool,
    ) -> None:
        prompt = [*range(20, 20 + shared), *own]
        one = request(prompt, max_tokens, priority=priority, salt=salt, prefix_caching=prefix_caching)
        for name in self.engine.add_samples(one, samples):
            self.wanted[name] = (prompt, max_tokens)

    @rule(which=st.integers(0, 20))
    def abort(self, which: int) -> None:
        if self.wanted:
            name = sorted(self.wanted)[which % len(self.wanted)]
            assert self.engine.abort(name) is not None
            assert self.engine.abort(name) is None
            del self.wanted[name]

    @rule(tokens=st.integers(1, 30), sequences=st.integers(1, 6), times=st.integers(1, 6))
    def step(self, tokens: int, sequences: int, times: int) -> None:
        for _ in range(times):
            self.take(self.engine.step(StepBudget(tokens=tokens, sequences=sequences)))

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            prompt, max_tokens = self.wanted[event.id]
            got = self.got.setdefault(event.id, [])
            got.extend(event.token_ids)
            expected = foretold(prompt, max_tokens)
            assert got == expected[: len(got)]
            assert (event.reason is not None) == (len(got) == len(expected))
            if event.reason is not None:
                assert event.reason == ("stop" if got[-1] == END else "length")
                assert event.record is not None
                assert event.record.answer_tokens == len(got)
                assert event.record.cached_tokens < len(prompt)
                del self.wanted[event.id]

    @invariant()
    def accounts_agree(self) -> None:
        self.engine.check_integrity()
        assert self.engine.has_work == bool(self.wanted)

    def teardown(self) -> None:
        for _ in range(5000):
            if not self.wanted:
                break
            self.take(self.engine.step())
            self.engine.check_integrity()
        assert not self.engine.has_work
        assert self.engine.pool.num_free == self.engine.pool.num_blocks
        assert self.engine.metrics().held_blocks == 0


Life.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestLife = Life.TestCase


def test_an_earlier_prompt_and_answer_are_found_by_the_next_turn() -> None:
    engine = make_engine()
    first = list(range(10, 25))
    answer = answers(drain_one(engine, request(first, 6)))[0]
    assert engine.pool.statistics.hits == 0
    second = [*first, *answer, 30, 31]
    [last] = [event for event in drain_one(engine, request(second, 4)) if event.reason]
    assert last.record is not None
    assert last.record.cached_tokens == (len(first) + len(answer) - 1) // BLOCK_SIZE * BLOCK_SIZE
    assert engine.pool.statistics.hits == last.record.cached_tokens
    assert engine.pool.statistics.queries == len(first) + len(second)


def drain_one(engine: Engine, one: Request) -> list[Event]:
    engine.add(one)
    return drain(engine)


def test_salts_and_requests_without_prefix_caching_find_nothing() -> None:
    engine = make_engine(40)
    prompt = list(range(10, 30))
    drain_one(engine, request(prompt))
    for other in (request(prompt, salt="mine"), request(prompt, prefix_caching=False)):
        *_, last = drain_one(engine, other)
        assert last.record is not None
        assert last.record.cached_tokens == 0
    *_, last = drain_one(engine, request(prompt))
    assert last.record is not None
    assert last.record.cached_tokens == 16
    engine.forget_prefixes()
    *_, last = drain_one(engine, request(prompt))
    assert last.record is not None
    assert last.record.cached_tokens == 0


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_samples_compute_their_prompt_once(prefix_caching: bool) -> None:
    model = Foretold(BLOCK_SIZE)
    engine = make_engine(40, tokens=64, sequences=8)
    engine._forward = model.forward
    prompt = list(range(10, 28))
    names = engine.add_samples(request(prompt, 3, prefix_caching=prefix_caching), 4)
    engine.step()
    assert engine.metrics().running == 1
    engine.step()
    assert engine.metrics().held_blocks == 4 + 4  # four full blocks together, and each its own last one
    got = answers(drain(engine))
    assert model.steps[:2] == [[18], [1, 2, 2, 2]]
    assert all(got[name][-1] == foretold(prompt, 3)[-1] for name in names)


def test_samples_differ_and_a_seed_repeats_them() -> None:
    def sample() -> list[list[int]]:
        engine = make_engine(40, sequences=8)
        engine._forward = lambda batch: np.zeros((len(batch.output_rows), VOCAB), np.float32)
        one = Request(token_ids=(1, 2), options=SamplingOptions(seed=5, temperature=1.0, max_tokens=12, logprobs=2))
        names = engine.add_samples(one, 3)
        events = drain(engine)
        assert [len(event.log_probabilities) for event in events] == [1] * 36
        for event in events:
            assert event.log_probabilities[0].token == event.token_ids[0]
            assert event.log_probabilities[0].log_probability == pytest.approx(-math.log(VOCAB))
        return [answers(events)[name] for name in names]

    first = sample()
    assert len({tuple(one) for one in first}) == 3
    assert sample() == first
    with pytest.raises(UsageError, match="0 samples are not allowed"):
        make_engine().add_samples(request([1]), 0)


def test_requests_that_come_together_compute_their_common_prefix_once() -> None:
    model = Foretold(BLOCK_SIZE)
    engine = make_engine(60, tokens=64, sequences=8)
    engine._forward = model.forward
    prompts = [[*range(10, 30), 40 + own] for own in range(6)]
    for prompt in prompts:
        engine.add(request(prompt, 2))
    drain(engine)
    assert sum(map(sum, model.steps)) == 21 + 5 * 1 + sum(len(foretold(prompt, 2)) - 1 for prompt in prompts)
    assert engine.pool.statistics.hits == 5 * 20


def test_a_plan_that_was_recorded_replays() -> None:
    recorded: list[Any] = []
    policy = SchedulerPolicy(watermark=0.0, long_prefill_tokens=5)
    engine = make_engine(10, policy=policy, proposer=Guesser(3), trace=lambda *parts: recorded.append(parts))
    chance = random.Random(2)
    for _ in range(12):
        engine.add(request([chance.randrange(48) for _ in range(chance.randrange(1, 20))], 12))
    drain(engine)
    assert engine.metrics().preemptions > 0
    again = Scheduler(policy, num_blocks=10, block_size=BLOCK_SIZE)
    assert len(recorded) > 10
    for state, budget, plan in recorded:
        assert again.plan(state, budget) == plan


def test_right_guesses_save_steps_and_wrong_ones_are_rolled_back() -> None:
    class Always:
        def __init__(self, shift: int) -> None:
            self.shift = shift
            self.outcomes: list[DraftOutcome] = []

        def propose(self, wanted: Sequence[DraftWanted]) -> Sequence[Draft]:
            drafts = []
            for one in wanted:
                tokens = list(one.token_ids)
                for _ in range(min(3, one.most)):
                    tokens.append((next_token(tokens) + self.shift) % 47)
                drafts.append(Draft(token_ids=tuple(tokens[len(one.token_ids) :])))
            return drafts

        def observe(self, outcomes: Sequence[DraftOutcome], *, batch_tokens: int, seconds: float) -> None:
            self.outcomes += outcomes

        def forget(self, request: int) -> None: ...

    prompt = [1, 2, 3, 4, 5]
    for shift, steps in ((0, 4), (1, 13)):
        proposer = Always(shift)
        engine = make_engine(proposer=proposer)
        engine.add(Request(token_ids=tuple(prompt), options=SamplingOptions(max_tokens=13)))
        events = drain(engine)
        assert answers(events)[0] == foretold(prompt, 13, end=-1)
        assert len(events) == steps
        record = events[-1].record
        assert record is not None
        assert record.accepted_tokens == (record.draft_tokens if shift == 0 else 0)
        assert record.draft_tokens == sum(one.proposed for one in proposer.outcomes) == engine.metrics().draft_tokens


def test_wrong_guesses_hold_no_blocks() -> None:
    class Wrong(Guesser):
        def propose(self, wanted: Sequence[DraftWanted]) -> Sequence[Draft]:
            return [Draft(token_ids=((next_token(one.token_ids) + 1) % 47,) * min(6, one.most)) for one in wanted]

    engine = make_engine(proposer=Wrong(0))
    engine.add(Request(token_ids=(1, 2, 3), options=SamplingOptions(max_tokens=20)))
    for known in range(4, 20):
        engine.step()
        assert engine.metrics().held_blocks == -(-(known - 1) // BLOCK_SIZE)


def test_a_preempted_request_finds_its_own_blocks_again() -> None:
    engine = make_engine()
    name = engine.add(request(range(10, 20), 8))
    for _ in range(3):
        engine.step()
    known = len(engine._running[name].known)
    before = engine.metrics().computed_tokens
    engine._preempt(engine._running[name])
    engine.check_integrity()
    engine.step()
    assert engine.metrics().computed_tokens - before == known - (known - 1) // BLOCK_SIZE * BLOCK_SIZE


def test_a_guessed_end_token_ends_the_answer_there() -> None:
    prompts = [[first, second] for first in range(48) for second in range(48)]
    prompt = next(prompt for prompt in prompts if END in foretold(prompt, 12)[1:4])
    expected = foretold(prompt, 12)

    class Sure(Guesser):
        def propose(self, wanted: Sequence[DraftWanted]) -> Sequence[Draft]:
            tokens = [*prompt, *foretold(prompt, 14, end=-1)]
            return [Draft(token_ids=tuple(tokens[len(one.token_ids) :][: one.most])) for one in wanted]

    engine = make_engine(proposer=Sure(0))
    events = drain_one(engine, request(prompt, 12))
    assert answers(events)[0] == expected
    assert events[-1].reason == "stop"


def test_a_request_whose_logits_are_damaged_ends_alone() -> None:
    model = Foretold(BLOCK_SIZE)

    def forward(batch: Any) -> Any:
        logits = model.forward(batch)
        rows = [row for row, token in enumerate(batch.output_rows) if batch.token_ids[token] == 13]
        logits[rows] = float("nan")
        return logits

    engine = make_engine()
    engine._forward = forward
    good, bad = engine.add(request([1, 2], 3)), engine.add(request([1, 13], 3))
    events = drain(engine)
    [failed] = [event for event in events if event.id == bad]
    assert failed.reason == "error"
    assert isinstance(failed.error, FlyweightError)
    assert answers(events)[good] == foretold([1, 2], 3)
    assert engine.metrics().finished["error"] == 1


def test_a_step_that_fails_loses_nothing() -> None:
    engine = make_engine()
    working, engine._forward = engine._forward, lambda batch: (_ for _ in ()).throw(KeyboardInterrupt)
    name = engine.add(request([1, 2, 3, 4, 5], 4))
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    engine.check_integrity()
    engine._forward = working
    assert answers(drain(engine))[name] == foretold([1, 2, 3, 4, 5], 4)


def test_what_can_never_fit_is_refused_at_once() -> None:
    engine = make_engine(12)
    engine.context_length = 100
    with pytest.raises(ResourceError, match="up to 60 tokens does not fit into the KV cache of 48"):
        engine.add(request([1] * 40, 20))
    with pytest.raises(UsageError, match="has 100 tokens and the context holds 100"):
        engine.add(request([1] * 100, 20))
    with pytest.raises(UsageError, match="no tokens"):
        engine.add(request([]))
    assert not engine.has_work
    assert engine.step() == []


def test_blocks_held_by_others_are_named_when_nothing_can_go_on() -> None:
    engine = make_engine(12)
    taken = engine.pool.take(11)
    engine.add(request([1] * 20, 4))
    with pytest.raises(ResourceError, match="no request can go on: of 12 cache blocks 1 are free"):
        engine.step()
    engine.pool.release(taken)
    assert len(drain(engine)) == 4


def test_metrics_count_what_happened() -> None:
    engine = make_engine(tokens=8)
    engine.add(request([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 2))
    engine.add(request([1, 2], 2))
    engine.step()
    now = engine.metrics()
    assert (now.running, now.waiting, now.computed_tokens, now.steps, now.last_step_tokens) == (1, 1, 8, 1, 8)
    assert now.cache_usage == 2 / 12
    engine.abort(1)
    events = drain(engine)
    record = events[-1].record
    assert record is not None
    assert record.arrived <= record.began <= record.first_token <= record.finished
    assert record.prefill_seconds > 0
    now = engine.metrics()
    assert now.finished == {"abort": 1, events[-1].reason: 1}
    assert (now.prompt_tokens, now.answer_tokens) == (10, record.answer_tokens)
    assert now.step_seconds >= now.last_step_seconds > 0
