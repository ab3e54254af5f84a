"""Keeps every test from the network, from the user's own cache and from the terminal's width."""

import os

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)  # the same examples on every machine, however busy
settings.load_profile("same")

os.environ.pop("COLUMNS", None)  # the width of somebody's terminal would fold the tables that tests look into
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before any fixture runs


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """A cache folder of this run, for subprocesses too."""
    before = os.environ.get("FLYWEIGHT_CACHE")
    os.environ["FLYWEIGHT_CACHE"] = str(tmp_path_factory.mktemp("flyweight-cache"))
    yield
    if before is None:
        del os.environ["FLYWEIGHT_CACHE"]
    else:
        os.environ["FLYWEIGHT_CACHE"] = before
