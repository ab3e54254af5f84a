"""A request whose keys and values are damaged leaves none of them to be found: whoever begins like it is answered
rightly, and ends with an error only where it damaged something itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flyweight import load
from flyweight.demo_model import model_path
from flyweight.engine.engine import Engine
from flyweight.engine.request import Event, Request
from flyweight.engine.sampling import SamplingOptions
from flyweight.engine.scheduler import StepBudget
from flyweight.errors import NonFiniteError
from tests.support.foretold import END, Foretold, foretold

BLOCK_SIZE = 4
PROMPT = list(range(10, 27))  # four full blocks and a token
SHARED = PROMPT[:8]


class Fragile(Foretold):
    """What it stores while ``damages`` is not finite when it is read."""

    def __init__(self) -> None:
        super().__init__(BLOCK_SIZE)
        self.damages = False
        self.damaged: set[int] = set()

    def forward(self, batch: Any) -> Any:
        (self.damaged.update if self.damages else self.damaged.difference_update)(batch.slots.tolist())
        logits = super().forward(batch)
        rows = np.searchsorted(batch.query_starts, batch.output_rows, side="right") - 1
        for place, (row, token) in enumerate(zip(rows, batch.output_rows, strict=True)):
            table = batch.block_tables[row]
            read = range(int(batch.positions[token]) + 1)
            if self.damaged & {int(table[at // BLOCK_SIZE]) * BLOCK_SIZE + at % BLOCK_SIZE for at in read}:
                logits[place] = np.nan
        return logits


def make(num_blocks: int = 40, **budget: int) -> tuple[Engine, Fragile]:
    model = Fragile()
    engine = Engine(
        model.forward,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        budget=StepBudget(**{"tokens": 32, "sequences": 4, **budget}),
        context_length=num_blocks * BLOCK_SIZE,
    )
    return engine, model


def request(prompt: Sequence[int], max_tokens: int = 4) -> Request:
    return Request(token_ids=tuple(prompt), options=SamplingOptions(max_tokens=max_tokens), stop_ids=frozenset([END]))


def drain(engine: Engine) -> dict[int, list[Event]]:
    events: dict[int, list[Event]] = {}
    for _ in range(500):
        if not engine.has_work:
            return events
        for event in engine.step():
            events.setdefault(event.id, []).append(event)
        engine.check_integrity()
    raise AssertionError("requests did not end")


def ask(engine: Engine, prompt: Sequence[int]) -> list[Event]:
    """The events of a request that runs alone."""
    name = engine.add(request(prompt))
    return drain(engine)[name]


def is_right(events: Sequence[Event], prompt: Sequence[int]) -> bool:
    return [token for event in events for token in event.token_ids] == foretold(prompt, 4)


def cached(events: Sequence[Event]) -> int:
    assert events[-1].record is not None
    return events[-1].record.cached_tokens


def test_the_same_prompt_again_computes_everything_anew() -> None:
    engine, model = make(tokens=8)
    model.damages = True
    [failed] = ask(engine, PROMPT)
    assert isinstance(failed.error, NonFiniteError)
    assert engine.metrics().findable_blocks == 0
    model.damages = False
    again = ask(engine, PROMPT)
    assert is_right(again, PROMPT)
    assert cached(again) == 0
    assert engine.metrics().preemptions == 0
    assert cached(ask(engine, PROMPT)) == 16


def test_damage_in_mid_answer_takes_what_the_request_has_written() -> None:
    engine, model = make()
    name = engine.add(request(PROMPT, 8))
    engine.step()
    model.damages = True
    [failed] = drain(engine)[name]
    assert failed.reason == "error"
    assert engine.metrics().findable_blocks == 0
    model.damages = False
    assert is_right(ask(engine, PROMPT), PROMPT)


def test_what_it_found_of_others_stays() -> None:
    engine, model = make()
    ask(engine, [*SHARED, 1])
    model.damages = True
    [failed] = ask(engine, PROMPT)
    assert failed.reason == "error"
    model.damages = False
    again = ask(engine, PROMPT)
    assert cached(again) == len(SHARED)
    assert is_right(again, PROMPT)


def test_what_an_aborted_request_has_damaged_costs_one_beginning_and_no_answer() -> None:
    engine, model = make(tokens=8)
    name = engine.add(request(PROMPT))
    model.damages = True
    engine.step()
    engine.abort(name)
    model.damages = False
    later = ask(engine, PROMPT)
    assert is_right(later, PROMPT)
    assert cached(later) == 0
    assert engine.metrics().preemptions == 1
    assert engine.metrics().findable_blocks == 0
    assert is_right(ask(engine, PROMPT), PROMPT)
    assert engine.metrics().preemptions == 1


def test_who_shares_damaged_blocks_is_answered() -> None:
    """The second holds blocks of the first when these turn out to be damaged; the third computes behind them."""
    engine, model = make(tokens=12, sequences=3)
    names = [engine.add(request(prompt)) for prompt in (PROMPT, [*PROMPT[:12], 1, 2, 3, 4, 5, 6], [*SHARED, 1])]
    model.damages = True
    engine.step()
    model.damages = False
    events = drain(engine)
    assert [events[name][-1].reason == "error" for name in names] == [True, False, False]
    assert is_right(events[names[1]], [*PROMPT[:12], 1, 2, 3, 4, 5, 6])
    assert is_right(events[names[2]], [*SHARED, 1])
    assert is_right(ask(engine, PROMPT), PROMPT)


def test_who_has_found_sound_blocks_of_a_damaged_request_goes_on() -> None:
    """It fills more blocks behind those that are withdrawn meanwhile."""
    engine, model = make()
    prompt = next(  # of a long answer
        [*PROMPT[:16], last] for last in range(48) if len(foretold([*PROMPT[:16], last], 12)) == 12
    )
    one, other = engine.add(request(prompt, 12)), engine.add(request(prompt, 12))
    for _ in range(3):
        engine.step()
    assert engine._running[one].blocks[:4] == engine._running[other].blocks[:4]
    model.damaged.add(engine._running[one].blocks[4] * BLOCK_SIZE)
    events = drain(engine)
    assert events[one][-1].reason == "error"
    assert events[other][-1].reason == "length"
    assert engine.metrics().preemptions == 0
    assert is_right(ask(engine, PROMPT), PROMPT)


class Damages(RuleBasedStateMachine):
    """Steps that damage what they write, among others: an answer may end with an error, but never with a wrong token,
    and when no step is damaged any more everybody is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.engine, self.model = make(12, tokens=12)
        self.wanted: dict[int, Sequence[int]] = {}
        self.got: dict[int, list[int]] = {}

    @rule(shared=st.integers(0, 16), own=st.integers(1, 40), samples=st.sampled_from([1, 1, 2]))
    def add(self, shared: int, own: int, samples: int) -> None:
        prompt = [*range(10, 10 + shared), own]
        for name in self.engine.add_samples(request(prompt, 6), samples):
            self.wanted[name] = prompt

    @rule(which=st.integers(0, 9))
    def abort(self, which: int) -> None:
        if self.wanted:
            name = sorted(self.wanted)[which % len(self.wanted)]
            self.engine.abort(name)
            del self.wanted[name]

    @rule(damages=st.sampled_from([False, False, True]), tokens=st.integers(1, 20))
    def step(self, damages: bool, tokens: int) -> None:
        self.model.damages = damages
        for event in self.engine.step(StepBudget(tokens=tokens, sequences=4)):
            got = self.got.setdefault(event.id, [])
            got.extend(event.token_ids)
            assert got == foretold(self.wanted[event.id], 6)[: len(got)]
            if event.reason is not None:
                del self.wanted[event.id]

    @invariant()
    def accounts_agree(self) -> None:
        self.engine.check_integrity()

    def teardown(self) -> None:
        for _ in range(2000):
            if not self.wanted:
                break
            self.step(False, 20)
        assert self.engine.pool.num_free == self.engine.pool.num_blocks
        for shared in (16, 16, 0):
            prompt = [*range(10, 10 + shared), 9]
            assert is_right(ask(self.engine, prompt), prompt)


Damages.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestDamages = Damages.TestCase


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16"])
def test_keys_and_values_of_a_real_model_that_turn_to_nan(kv_dtype: Any) -> None:
    """Every byte of the cache becomes a NaN in the middle of an answer. Nor does NaN in a block's unused places reach
    who uses the block next."""
    model = load(model_path(), kv_dtype=kv_dtype)
    prompt = "The opposite of hot is cold, and the opposite of up is down. " * 6
    options = SamplingOptions(max_tokens=12, temperature=0.0, ignore_eos=True)
    [whole] = model.generate([prompt], options)
    model.engine.forget_prefixes()
    pieces = model.stream(prompt, options)
    next(pieces)
    for layer in model._runner.cache.layers:  # type: ignore[attr-defined]
        layer.fill(255)
    with pytest.raises(NonFiniteError):
        list(pieces)
    [again] = model.generate([prompt], options)
    assert again.text == whole.text
    assert again.usage.cached_tokens == 0
    model.engine.check_integrity()
