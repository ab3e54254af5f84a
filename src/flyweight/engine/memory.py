"""How memory is shared out before a model runs: what the weights may keep, the tokens of the cache, what is left.

Pure arithmetic over sizes that others have measured, so that what a machine would do can be told on any other.
"""

from dataclasses import dataclass

from flyweight.errors import ResourceError, UsageError
from flyweight.reporting.units import format_bytes

DEFAULT_CONTEXTS = 16
RESERVE_BYTES = 96 << 20  # activations, logits and what the kernels work in, while a step runs
SHARE_OF_CACHE = 4  # a quarter of what is free is for keys and values, where nothing says how much may be used


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNeeds:
    """What a model asks for. ``weight_bytes``: packed weights that lie in an image and are not in memory yet;
    ``block_bytes`` and ``block_tokens``: of one block of the cache; ``max_tokens``: the model's context."""

    weight_bytes: int
    block_bytes: int
    block_tokens: int
    max_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """``num_blocks`` of cache; ``ceiling`` on the resident bytes of the image, None where all of it may stay;
    ``left_bytes`` that nothing has been promised to."""

    num_blocks: int
    ceiling: int | None
    left_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSizes:
    """A cache of keys and values as it was made: ``num_blocks`` blocks of ``block_size`` tokens in ``kv_dtype``;
    ``prefix_caching`` says whether their contents are kept for later requests."""

    block_size: int
    num_blocks: int
    kv_dtype: str
    prefix_caching: bool


def plan_memory(
    needs: MemoryNeeds, *, free_bytes: int, used_bytes: int, limit: int | None, cache_tokens: int | None
) -> MemoryPlan:
    """Share out memory: the cache as asked for, else by what the weights leave; then what the weights may keep.

    Args:
        free_bytes: what this process could still have.
        used_bytes: what it has in memory now.
        limit: most that it may have in memory altogether; None: what is free.
        cache_tokens: tokens that the cache is to hold; None: 16 contexts, but under a limit no more than the weights
            leave, without one no more than a quarter of that; where the weights do not fit, a quarter of all.

    Raises:
        UsageError: when ``cache_tokens`` is less than one block.
        ResourceError: when nothing is left for the cache, or for the weights beside it.
    """
    if cache_tokens is not None and cache_tokens < needs.block_tokens:
        raise UsageError(f"cache_tokens={cache_tokens} is not allowed; choose {needs.block_tokens} or more")
    available = free_bytes if limit is None else min(limit - used_bytes, free_bytes) - RESERVE_BYTES
    left = available - needs.weight_bytes
    if cache_tokens is not None:
        num_blocks = -(-cache_tokens // needs.block_tokens)
    else:
        share = max(
            left if limit is not None else left // SHARE_OF_CACHE, available // SHARE_OF_CACHE if left <= 0 else 0
        )
        wanted = -(-DEFAULT_CONTEXTS * needs.max_tokens // needs.block_tokens)
        num_blocks = max(1, min(wanted, share // needs.block_bytes))
    cache_bytes = num_blocks * needs.block_bytes
    left -= cache_bytes
    if left >= 0 or (limit is None and needs.weight_bytes == 0):
        return MemoryPlan(num_blocks=num_blocks, ceiling=None, left_bytes=max(0, left))
    ceiling = available - cache_bytes
    if ceiling <= 0 or needs.weight_bytes == 0:
        given = "there is" if limit is None else f"memory={format_bytes(limit)} allows"
        least = used_bytes + RESERVE_BYTES + cache_bytes
        raise ResourceError(
            f"{format_bytes(used_bytes)} are in use, a cache of {num_blocks * needs.block_tokens} tokens takes "
            f"{format_bytes(cache_bytes)} and a step {format_bytes(RESERVE_BYTES)}: {format_bytes(least)} before the "
            f"weights, which is more than {given}; choose fewer cache_tokens or more memory"
        )
    return MemoryPlan(num_blocks=num_blocks, ceiling=ceiling, left_bytes=0)
