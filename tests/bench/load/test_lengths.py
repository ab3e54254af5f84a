import numpy as np
import pytest

from flyweight.bench.load.lengths import Lengths
from flyweight.errors import UsageError


def sample(text, count=4000):
    generator = np.random.default_rng(0)
    lengths = Lengths.parse(text)
    return np.asarray([lengths.draw(generator) for _ in range(count)])


def test_fixed():
    assert set(sample("7", 10)) == {7}


def test_uniform():
    values = sample("uniform:3-6")
    assert set(values) == {3, 4, 5, 6}


def test_normal():
    values = sample("normal: 256, 64")
    assert values.mean() == pytest.approx(256, rel=0.02)
    assert values.std() == pytest.approx(64, rel=0.05)
    assert sample("normal:2,50").min() == 1


def test_lognormal():
    values = sample("lognormal:256,0.5")
    assert np.median(values) == pytest.approx(256, rel=0.05)
    assert np.log(values).std() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("text", ["", "x", "-3", "normal:5", "uniform:1-2-3", "1e3", "lognormal:2,x", "nan"])
def test_other_forms_are_refused_with_the_known_ones(text):
    with pytest.raises(UsageError, match=r"write it like 256, uniform:128-512, normal:256,64 or lognormal:256,0.5"):
        Lengths.parse(text)


@pytest.mark.parametrize("text", ["0", "0.5", "uniform:0-3", "uniform:9-3", "99999999999", "uniform:1.5-3"])
def test_lengths_out_of_range_are_refused(text):
    with pytest.raises(UsageError, match="is not allowed; lengths are whole, from 1 to 10,000,000"):
        Lengths.parse(text)
