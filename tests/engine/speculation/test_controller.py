"""The controller in a simulated engine: it wins where guesses are right, and hardly loses where they are not."""

import random
from collections.abc import Callable

import pytest

from flyweight.engine.proposer import DraftOutcome
from flyweight.engine.speculation.controller import DraftController, Prospect
from flyweight.engine.speculation.step_costs import StepCosts


def bandwidth_bound(tokens: int) -> float:
    return 0.025 + 0.0015 * (tokens - 1)


def compute_bound(tokens: int) -> float:
    return 0.01 * tokens


class Simulation:
    """One or several requests that decode; guesses are right with a given chance, steps cost what ``cost`` says."""

    def __init__(self, cost: Callable[[int], float], *, requests: int = 1, noise: float = 0.05, seed: int = 0) -> None:
        self.controller = DraftController()
        self.cost, self.requests, self.noise = cost, requests, noise
        self.chance = random.Random(seed)
        self.seconds = self.tokens = self.plain_seconds = 0.0
        self.lengths: list[list[int]] = []

    def run(self, steps: int, rates: list[float], kind: str = "5-9") -> None:
        for _ in range(steps):
            lengths = self.controller.lengths([Prospect(id=one, kind=kind, most=50) for one in range(self.requests)])
            outcomes = []
            for one, length in enumerate(lengths):
                accepted = 0
                while accepted < length and self.chance.random() < rates[one]:
                    accepted += 1
                if length:
                    outcomes.append(DraftOutcome(id=one, proposed=length, accepted=accepted))
            tokens = self.requests + sum(lengths)
            seconds = self.cost(tokens) * (1 + abs(self.chance.gauss(0, self.noise)))
            self.controller.observe(outcomes, batch_tokens=tokens, seconds=seconds)
            gained = self.requests + sum(one.accepted for one in outcomes)
            self.lengths.append(lengths)
            self.seconds += seconds
            self.tokens += gained
            self.plain_seconds += gained / self.requests * self.cost(self.requests) * (1 + 0.8 * self.noise)

    @property
    def speedup(self) -> float:
        return self.plain_seconds / self.seconds


def test_right_guesses_make_it_fast() -> None:
    simulation = Simulation(bandwidth_bound)
    simulation.run(200, [0.95])
    assert simulation.speedup > 3


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("cost", [bandwidth_bound, compute_bound])
@pytest.mark.parametrize("steps", [60, 1000])
def test_wrong_guesses_hardly_cost(rate: float, cost: Callable[[int], float], steps: int) -> None:
    simulation = Simulation(cost)
    simulation.run(steps, [rate])
    assert simulation.speedup > (0.955 if steps == 60 else 0.98)


def test_it_rests_where_a_token_more_costs_as_much_as_a_step() -> None:
    simulation = Simulation(compute_bound)
    simulation.run(500, [0.7])
    assert simulation.speedup > 0.98
    assert sum(lengths[0] > 0 for lengths in simulation.lengths[100:]) < 40


def test_it_comes_back_when_the_text_changes() -> None:
    simulation = Simulation(bandwidth_bound)
    simulation.run(300, [0.0])
    assert simulation.speedup > 0.97
    before = len(simulation.lengths)
    simulation.seconds = simulation.plain_seconds = 0.0
    simulation.run(400, [0.95])
    first = next(step for step, lengths in enumerate(simulation.lengths[before:]) if lengths[0])
    assert first < 200
    assert simulation.speedup > 1.5


def test_requests_of_a_batch_get_lengths_of_their_own() -> None:
    simulation = Simulation(bandwidth_bound, requests=4)
    simulation.run(200, [0.97, 0.1, 0.97, 0.1])
    late = simulation.lengths[100:]
    drafted = [sum(lengths[one] for lengths in late) for one in range(4)]
    assert min(drafted[0], drafted[2]) > 5 * max(drafted[1], drafted[3])
    assert simulation.speedup > 1.3


def test_what_costs_more_per_token_gets_shorter_drafts() -> None:
    def steep(tokens: int) -> float:
        return 0.025 + 0.012 * (tokens - 1)

    lengths = []
    for cost in (bandwidth_bound, steep):
        simulation = Simulation(cost)
        simulation.run(300, [0.85])
        lengths.append(sum(lengths[0] for lengths in simulation.lengths[150:]))
    assert lengths[0] > 1.5 * lengths[1]


def test_the_first_steps_are_plain_until_their_cost_is_known() -> None:
    controller = DraftController()
    prospect = [Prospect(id=0, kind="10+", most=8)]
    assert controller.lengths(prospect) == [0]
    controller.observe([], batch_tokens=300, seconds=2.0)  # a prompt says nothing about a decoding step
    assert controller.lengths(prospect) == [0]
    controller.observe([], batch_tokens=1, seconds=0.02)
    assert controller.lengths(prospect)[0] > 0
    assert controller.lengths([Prospect(id=0, kind="10+", most=0)]) == [0]


def test_step_costs_lie_between_what_was_seen_and_never_fall() -> None:
    costs = StepCosts()
    assert not costs.covers(5)
    costs.add(4, 0.04)
    assert costs.covers(4)
    assert not costs.covers(3)
    costs.add(1, 0.02)
    assert costs.seconds(2) == pytest.approx(0.02 + 0.02 / 3)
    assert costs.seconds(10) == pytest.approx(0.04 + 6 * 0.05 * 0.02)
    costs.add(8, 0.03)
    assert costs.seconds(8) == pytest.approx(0.04)
    for _ in range(40):
        costs.add(8, 0.1)
    assert costs.seconds(8) == pytest.approx(0.1, rel=0.1)
    for _ in range(2000):
        costs.relax(1)
    assert costs.seconds(8) < 0.03
