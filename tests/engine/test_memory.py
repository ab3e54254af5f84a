"""Memory is shared out as told: the cache in what the weights leave, weights cut back only where they do not fit."""

from typing import Any

import pytest

from flyweight.engine.memory import RESERVE_BYTES, MemoryNeeds, plan_memory
from flyweight.errors import ResourceError, UsageError

MB = 10**6
NEEDS = MemoryNeeds(weight_bytes=1000 * MB, block_bytes=1 * MB, block_tokens=16, max_tokens=16_000)


def plan(**changes: Any) -> Any:
    given = {"free_bytes": 8000 * MB, "used_bytes": 100 * MB, "limit": None, "cache_tokens": None}
    return plan_memory(NEEDS, **{**given, **changes})


def test_without_a_limit_a_quarter_of_what_the_weights_leave_is_for_the_cache() -> None:
    found = plan()
    assert (found.num_blocks, found.ceiling, found.left_bytes) == (1750, None, 5250 * MB)
    assert plan(free_bytes=10**15).num_blocks == 16_000  # sixteen contexts are enough


def test_under_a_limit_the_cache_has_what_the_weights_leave() -> None:
    found = plan(limit=1500 * MB)
    assert found.ceiling is None
    assert found.num_blocks == (1500 * MB - 100 * MB - RESERVE_BYTES - 1000 * MB) // MB
    assert found.left_bytes < MB


def test_weights_that_do_not_fit_are_cut_back() -> None:
    found = plan(limit=800 * MB)
    available = 700 * MB - RESERVE_BYTES
    assert found.num_blocks == available // 4 // MB
    assert found.ceiling == available - found.num_blocks * MB
    asked = plan(limit=800 * MB, cache_tokens=160)
    assert (asked.num_blocks, asked.ceiling) == (10, available - 10 * MB)
    beyond = plan(free_bytes=600 * MB)
    assert (beyond.num_blocks, beyond.ceiling) == (150, 450 * MB)


def test_what_is_used_and_kept_never_exceeds_the_limit() -> None:
    for limit in range(250, 3000, 50):
        found = plan(limit=limit * MB)
        weights = 1000 * MB if found.ceiling is None else found.ceiling
        assert 100 * MB + RESERVE_BYTES + weights + found.num_blocks * MB <= limit * MB


def test_too_little_is_refused() -> None:
    with pytest.raises(ResourceError, match="100 MB are in use"):
        plan(limit=150 * MB)
    with pytest.raises(ResourceError, match=r"a cache of 16000 tokens takes 1\.00 GB"):
        plan(limit=900 * MB, cache_tokens=16_000)
    with pytest.raises(UsageError, match="choose 16 or more"):
        plan(cache_tokens=15)
