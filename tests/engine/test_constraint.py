"""Constraints in the engine: the answer keeps to them in any batch, and whatever goes wrong in one hurts no other."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from flyweight.engine.constraint import ConstraintFactory, Masks, TokenConstraint
from flyweight.engine.engine import Engine
from flyweight.engine.mask_worker import MaskWorker
from flyweight.engine.proposer import Draft, DraftOutcome, DraftWanted
from flyweight.engine.request import Event, Request
from flyweight.engine.sampling import SamplingOptions
from flyweight.engine.scheduler import SchedulerPolicy, StepBudget
from flyweight.engine.speculation.acceptance import accept_by_ratio
from tests.support.foretold import END, VOCAB, Foretold, foretold, next_token

BLOCK_SIZE = 4
WORDS = (VOCAB + 31) // 32


class OneOf:
    """Only these token sequences."""

    def __init__(self, *sequences: Sequence[int]) -> None:
        self.sequences = [tuple(one) for one in sequences]
        self.chosen: tuple[int, ...] = ()

    def following(self, tokens: Sequence[int]) -> set[int]:
        prefix = (*self.chosen, *tokens)
        return {one[len(prefix)] for one in self.sequences if one[: len(prefix)] == prefix and len(one) > len(prefix)}

    def masks(self, drafts: Sequence[int]) -> Masks:
        words = np.zeros((1 + len(drafts), WORDS), np.uint32)
        may_end = []
        for place in range(len(words)):
            for token in self.following(drafts[:place]):
                words[place, token // 32] |= np.uint32(1 << token % 32)
            may_end.append((*self.chosen, *drafts[:place]) in self.sequences)
        return Masks(words=words, may_end=tuple(may_end))

    def num_allowed(self, tokens: Sequence[int]) -> int:
        return next((n for n, token in enumerate(tokens) if token not in self.following(tokens[:n])), len(tokens))

    def push(self, token: int) -> None:
        assert token in self.following(())
        self.chosen += (token,)

    @property
    def is_complete(self) -> bool:
        return not self.following(())


class Failing(OneOf):
    def __init__(self, fault: str, *sequences: Sequence[int]) -> None:
        super().__init__(*sequences)
        self.fault = fault

    def masks(self, drafts: Sequence[int]) -> Masks:
        if self.fault == "masks" and len(self.chosen) == 1:
            raise RuntimeError("broken")
        if self.fault == "slow" and len(self.chosen) == 1:
            time.sleep(0.5)
        if self.fault == "shape":
            return Masks(words=np.zeros((3, WORDS), np.uint32), may_end=(True,) * 3)
        if self.fault == "width":
            return Masks(words=np.full((1, 9), 2**32 - 1, np.uint32), may_end=(True,))
        if self.fault == "dead" and len(self.chosen) == 1:
            return Masks(words=np.zeros((1 + len(drafts), WORDS), np.uint32), may_end=(False,) * (1 + len(drafts)))
        return super().masks(drafts)

    def push(self, token: int) -> None:
        if self.fault == "push":
            raise RuntimeError("broken")
        super().push(token)


class Guesser:
    """Guesses what ``OneOf`` constraints allow, at places what they do not; with probabilities if it is asked."""

    def __init__(self, guess: Callable[[Sequence[int]], Sequence[int]], *, drawn: bool = False) -> None:
        self.guess = guess
        self.drawn = drawn
        self.outcomes: list[DraftOutcome] = []

    def propose(self, wanted: Sequence[DraftWanted]) -> Sequence[Draft]:
        drafts = []
        for one in wanted:
            tokens = tuple(self.guess(one.token_ids))[: one.most]
            probabilities = np.full((len(tokens), VOCAB), 1 / VOCAB, np.float32) if self.drawn else None
            drafts.append(Draft(token_ids=tokens, probabilities=probabilities))
        return drafts

    def observe(self, outcomes: Sequence[DraftOutcome], *, batch_tokens: int, seconds: float) -> None:
        self.outcomes += outcomes

    def forget(self, request: int) -> None:
        pass


def make_engine(num_blocks: int = 24, **options: Any) -> Engine:
    return Engine(
        Foretold(BLOCK_SIZE).forward,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        budget=StepBudget(tokens=16, sequences=4),
        context_length=num_blocks * BLOCK_SIZE,
        **options,
    )


def request(
    constraint: ConstraintFactory | None, prompt: Sequence[int] = (1, 2, 3), *, salt: str = "", **options: Any
) -> Request:
    return Request(
        token_ids=tuple(prompt),
        options=SamplingOptions(**{"max_tokens": 12, "temperature": 0.0, **options}),
        stop_ids=frozenset([END]),
        constraint=constraint,
        salt=salt,
    )


def drain(engine: Engine) -> dict[int, list[Event]]:
    events: dict[int, list[Event]] = {}
    while engine.has_work:
        for event in engine.step():
            events.setdefault(event.id, []).append(event)
        engine.check_integrity()
    return events


def tokens_of(events: Sequence[Event]) -> list[int]:
    return [token for event in events for token in event.token_ids]


def test_it_satisfies_the_protocol():
    constraint: TokenConstraint = OneOf([1])
    assert not constraint.is_complete


def test_an_answer_keeps_to_it_and_ends_when_it_is_complete():
    engine = make_engine()
    name = engine.add(request(lambda: OneOf([5, 9, 11], [6, 9])))
    events = drain(engine)[name]
    assert tokens_of(events) in ([5, 9, 11], [6, 9])
    assert events[-1].reason == "stop"
    assert events[-1].is_complete
    assert engine.metrics().mask_seconds > 0


def test_the_end_is_allowed_exactly_where_it_may_end():
    # The model wants the end at once: it may not come before 5, and may come after it.
    prompt = next([a, b] for a in range(40) for b in range(40) if next_token([a, b]) == END)
    engine = make_engine()
    name = engine.add(request(lambda: OneOf([5], [5, 6, 8]), prompt))
    wants_end = Engine(
        Foretold(BLOCK_SIZE, lambda tokens: END).forward,
        num_blocks=24,
        block_size=BLOCK_SIZE,
        budget=engine.budget,
        context_length=96,
    )
    other = wants_end.add(request(lambda: OneOf([5], [5, 6, 8]), prompt))
    assert tokens_of(drain(engine)[name])[0] == 5
    events = drain(wants_end)[other]
    assert tokens_of(events) == [5, END]
    assert events[-1].reason == "stop"
    assert not events[-1].is_complete


def test_a_constraint_cannot_allow_the_end_as_text():
    class Anything(OneOf):
        def masks(self, drafts: Sequence[int]) -> Masks:
            return Masks(words=np.full((1, WORDS), 2**32 - 1, np.uint32), may_end=(False,))

        def push(self, token: int) -> None:
            pass

        @property
        def is_complete(self) -> bool:
            return False

    engine = make_engine()
    engine._forward = Foretold(BLOCK_SIZE, lambda tokens: END).forward
    name = engine.add(request(Anything, max_tokens=3))
    assert END not in tokens_of(drain(engine)[name])


@pytest.mark.parametrize("options", [{"ignore_eos": True}, {"min_tokens": 5}])
def test_where_only_the_end_is_left_it_comes_whatever_the_options_say(options):
    class Late(OneOf):
        """Does not know by itself that it is complete."""

        @property
        def is_complete(self) -> bool:
            return False

    engine = make_engine()
    name = engine.add(request(lambda: Late([5, 9]), **options))
    events = drain(engine)[name]
    assert tokens_of(events) == [5, 9, END]
    assert events[-1].reason == "stop"


def test_ignore_eos_and_min_tokens_go_on_where_more_is_possible():
    for options in ({"ignore_eos": True}, {"min_tokens": 3}):
        engine = Engine(
            Foretold(BLOCK_SIZE, lambda tokens: END).forward,
            num_blocks=24,
            block_size=BLOCK_SIZE,
            budget=StepBudget(tokens=16, sequences=4),
            context_length=96,
        )
        name = engine.add(request(lambda: OneOf([5], [5, 6, 8]), **options))
        assert tokens_of(drain(engine)[name]) == [5, 6, 8]


def test_the_length_ends_it_too():
    engine = make_engine()
    name = engine.add(request(lambda: OneOf([5] * 30), max_tokens=4))
    events = drain(engine)[name]
    assert tokens_of(events) == [5, 5, 5, 5]
    assert events[-1].reason == "length"


def test_a_stop_token_that_is_text_ends_it():
    engine = make_engine()
    name = engine.add(request(lambda: OneOf([5, 9, 11]), stop_token_ids=(9,)))
    events = drain(engine)[name]
    assert tokens_of(events) == [5, 9]
    assert (events[-1].reason, events[-1].is_complete) == ("stop", False)


def test_each_sample_has_a_state_of_its_own():
    made = []

    def make() -> OneOf:
        made.append(OneOf([5, 9, 11], [6, 9], [8, 1, 2, 3, 4]))
        return made[-1]

    engine = make_engine()
    names = engine.add_samples(request(make, temperature=1.0, seed=3), 4)
    events = drain(engine)
    assert len(made) == 4
    for name in names:
        assert tuple(tokens_of(events[name])) in made[0].sequences
    assert len({tuple(tokens_of(events[name])) for name in names}) > 1


def test_log_probabilities_are_of_the_logits_as_they_are():
    engine = make_engine()
    name = engine.add(request(lambda: OneOf([5, 9]), logprobs=1))
    [first, _] = [one for event in drain(engine)[name] for one in event.log_probabilities]
    assert first.token == 5
    assert first.top[0][0] == next_token([1, 2, 3])
    assert first.log_probability < first.top[0][1]


def test_preemption_keeps_the_state():
    engine = make_engine(num_blocks=8, policy=SchedulerPolicy(watermark=0.0))
    sequence = [5, 9, 11, 3, 20, 21, 22, 23, 24, 25]
    names = [engine.add(request(lambda: OneOf(sequence), range(8 * n, 8 * n + 8), salt=str(n))) for n in range(3)]
    events = drain(engine)
    assert engine.metrics().preemptions > 0
    assert all(tokens_of(events[name]) == sequence for name in names)


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guesses_are_checked_through_it(drawn, temperature):
    sequence = [5, 9, 11, 3, 20, 21, 22, 23]

    def guess(tokens: Sequence[int]) -> Sequence[int]:
        done = len(tokens) - 3
        return [*sequence[done : done + 2], 40, 41]  # two that are right, and then nonsense

    plain = make_engine()
    expected = plain.add(request(lambda: OneOf(sequence, sequence[:6]), temperature=temperature, seed=1))
    expected_tokens = tokens_of(drain(plain)[expected])
    guesser = Guesser(guess, drawn=drawn)
    engine = make_engine(proposer=guesser, acceptance=accept_by_ratio)
    name = engine.add(request(lambda: OneOf(sequence, sequence[:6]), temperature=temperature, seed=1))
    events = drain(engine)[name]
    if not drawn or temperature == 0.0:
        assert tokens_of(events) == expected_tokens
    assert tokens_of(events) in (sequence, [*sequence[:6], END])
    assert sum(one.accepted for one in guesser.outcomes) > 1
    assert max(one.proposed for one in guesser.outcomes) <= 2 + drawn  # what cannot be right is not computed


def test_guesses_beside_requests_without_a_constraint():
    engine = make_engine(proposer=Guesser(lambda tokens: [next_token(tokens), 3]))
    free = engine.add(request(None, max_tokens=9))
    bound = engine.add(request(lambda: OneOf([5, 9, 11, 3])))
    events = drain(engine)
    assert tokens_of(events[free]) == foretold([1, 2, 3], 9)
    assert tokens_of(events[bound]) == [5, 9, 11, 3]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("masks", "the constraint of this request failed: RuntimeError: broken"),
        ("push", "the constraint of this request failed: RuntimeError: broken"),
        ("dead", "the constraint allows no token here and no end"),
        ("shape", "a constraint gave 3 masks where 1 were asked for"),
        ("width", "mask has shape"),
        ("slow", r"took more than 0\.1 s in one step; simplify the grammar"),
    ],
)
def test_a_failing_constraint_ends_its_own_request_only(fault, message, monkeypatch):
    engine = make_engine()
    engine._masks = MaskWorker(most_seconds=0.1)
    before = engine.add(request(lambda: OneOf([5, 9, 11, 3]), salt="a"))
    broken = engine.add(request(lambda: Failing(fault, [5, 9, 11]), salt="b"))
    after = engine.add(request(lambda: OneOf([6, 10, 12, 4]), salt="c"))
    free = engine.add(request(None, max_tokens=5, salt="d"))
    events = drain(engine)
    assert tokens_of(events[before]) == [5, 9, 11, 3]
    assert tokens_of(events[after]) == [6, 10, 12, 4]
    assert tokens_of(events[free]) == foretold([1, 2, 3], 5)
    assert events[broken][-1].reason == "error"
    assert events[broken][-1].error is not None
    with pytest.raises(type(events[broken][-1].error), match=message):
        raise events[broken][-1].error


def test_a_constraint_that_cannot_be_made_ends_its_own_request_only():
    def make() -> OneOf:
        raise ValueError("no such grammar")

    engine = make_engine()
    broken, fine = engine.add(request(make)), engine.add(request(lambda: OneOf([5])))
    events = drain(engine)
    assert "ValueError: no such grammar" in str(events[broken][-1].error)
    assert tokens_of(events[fine]) == [5]


def test_a_forward_pass_that_fails_costs_no_token():
    engine = make_engine()
    real, calls = engine._forward, []

    def fail_once(batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return real(batch)

    engine._forward = fail_once
    name = engine.add(request(lambda: OneOf([5, 9, 11])))
    first = engine.step()
    with pytest.raises(MemoryError):
        engine.step()
    assert tokens_of([*first, *drain(engine)[name]]) == [5, 9, 11]
