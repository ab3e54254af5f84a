"""One server for the tests that leave it as it was."""

import pytest
from support.served import served


@pytest.fixture(scope="session")
def demo():
    with served() as found:
        yield found


@pytest.fixture
def client(demo):
    with demo.client() as found:
        yield found
