"""Keeps every test from the network, from the user's own cache and from the terminal's width; long files begin."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings
from support.order import place_of

settings.register_profile("same", derandomize=True, deadline=None)  # the same examples on every machine, however busy
settings.load_profile("same")

os.environ.pop("COLUMNS", None)  # the width of somebody's terminal would fold the tables that tests look into
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before any fixture runs


gc.disable()  # until all is collected: what imports make stays, and looking through it took a sixth of the time

ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place_of(item.path.relative_to(ROOT).as_posix()))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()  # the modules of every library are never garbage


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
