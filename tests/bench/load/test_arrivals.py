import numpy as np
import pytest

from flyweight.bench.load.arrivals import arrival_times, coefficient_of_variation
from flyweight.errors import UsageError


def draw(shape, **given):
    settings = {"rate": 5.0, "requests": 4000, "duration": None, "generator": np.random.default_rng(0), **given}
    return arrival_times(shape, **settings)


def test_constant_arrivals_have_equal_gaps():
    assert draw("constant", requests=4) == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_poisson_arrivals_have_the_rate_and_its_spread():
    times = draw("poisson")
    assert len(times) == 4000
    assert times[-1] == pytest.approx(800, rel=0.05)
    assert coefficient_of_variation(times) == pytest.approx(1.0, abs=0.05)
    assert times == sorted(times)


@pytest.mark.parametrize("burstiness", [0.25, 4.0])
def test_gamma_arrivals_are_as_bursty_as_asked(burstiness):
    times = draw("gamma", burstiness=burstiness)
    assert times[-1] == pytest.approx(800, rel=0.1)
    assert coefficient_of_variation(times) == pytest.approx(burstiness**-0.5, rel=0.1)


def test_a_duration_ends_the_arrivals():
    times = draw("poisson", requests=None, duration=100.0)
    assert times[-1] <= 100.0
    assert len(times) == pytest.approx(500, rel=0.15)
    assert draw("constant", requests=10, duration=1.0) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_ramp_grows_linearly():
    times = np.asarray(draw("ramp", rate=0.0, final_rate=40.0, requests=None, duration=100.0))
    assert len(times) == pytest.approx(2000, rel=0.1)
    first, last = np.sum(times < 50), np.sum(times >= 50)
    assert last / first == pytest.approx(3.0, rel=0.2)  # areas under the line: 1 to 3
    falling = np.asarray(draw("ramp", rate=40.0, final_rate=0.0, requests=None, duration=100.0))
    assert np.sum(falling < 50) / np.sum(falling >= 50) == pytest.approx(3.0, rel=0.2)
    assert falling[-1] <= 100.0


def test_a_seed_repeats_its_arrivals():
    assert draw("poisson") == draw("poisson")
    assert draw("poisson") != draw("poisson", generator=np.random.default_rng(1))


def test_endless_loads_are_refused():
    with pytest.raises(UsageError, match="are more than 10,000,000; lower the rate or the duration"):
        draw("constant", rate=1e6, requests=None, duration=1e6)
