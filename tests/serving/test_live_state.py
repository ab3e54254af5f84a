"""The recent past as the page draws it: rates, latencies, gaps where nothing was measured."""

import json

import pytest
from support import serving_events as events

from flyweight.serving.live_state import INTERVAL_SECONDS, NUM_INTERVALS, LiveState


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state(clock):
    return LiveState(clock)


def test_nothing_has_happened(state):
    told = state.describe()
    assert told["tokens_per_second"] == 0
    assert told["time_to_first_token_seconds"] is None
    assert told["history"]["tokens_per_second"] == [None] * (NUM_INTERVALS - 1)


def test_rates_and_latencies(state, clock):
    one = events.name("r1")
    state.on_submitted(events.submitted("r1", at=1000.0))
    state.on_step(events.step(1, 1000.0, 1000.5, [events.chunk(one, 0, 5)], [(one, 1)]))
    state.on_step(events.step(2, 1000.5, 1001.5, [events.chunk(one, 5, 4, drafts=3)], [(one, 4)]))
    state.on_step(events.step(3, 1001.5, 1002.5, [events.chunk(one, 9, 1)], [(one, 1)]))
    state.on_finished(events.finished(one))
    clock.now = 1004.1
    told = state.describe()
    assert told["tokens_per_second"] == 6 / 4
    assert told["time_to_first_token_seconds"] == 0.5
    assert told["time_per_output_token_seconds"] == pytest.approx(2.0 / 5)
    history = told["history"]
    assert history["tokens_per_second"][-2:] == [2.5, 0.5]
    assert history["time_to_first_token_seconds"][-2:] == [0.5, None]
    assert history["time_per_output_token_seconds"][-2:] == [0.25, 1.0]
    assert history["running"][-2:] == [1, 1]
    assert not state._queued_at
    assert not state._last_token
    json.dumps(told)


def test_idle_intervals_count_as_zero_tokens_and_unknown_latencies(state, clock):
    one = events.name("r1")
    state.on_step(events.step(1, 1000.0, 1000.5, [events.chunk(one, 0, 5)], [(one, 3)]))
    clock.now = 1000.0 + 4 * INTERVAL_SECONDS
    history = state.describe()["history"]
    assert history["tokens_per_second"][-4:] == [1.5, 0.0, 0.0, 0.0]
    assert history["time_per_output_token_seconds"][-3:] == [None] * 3


def test_the_ring_forgets(state, clock):
    one = events.name("r1")
    state.on_step(events.step(1, 1000.0, 1000.5, [events.chunk(one, 0, 5)], [(one, 3)]))
    clock.now = 1000.0 + 2 * NUM_INTERVALS * INTERVAL_SECONDS
    assert set(state.describe()["history"]["tokens_per_second"]) == {0.0}
