"""Every kernel test runs on every instruction set this CPU has."""

from collections.abc import Iterator

import numpy as np
import pytest

from flyweight import kernels


@pytest.fixture(params=kernels.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with kernels.use_isa(request.param):
        yield request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261120)
