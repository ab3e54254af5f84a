"""Attention over a paged key-value cache, and the writing of that cache. Owns no memory and no block lists."""

import numpy as np
from numpy.typing import NDArray

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.checks import (
    FLOAT32,
    Array,
    Float32,
    as_words,
    check_array,
    check_writable,
    choose,
    float_name,
    output,
)

INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)
CACHE_TYPES = {name: getattr(_native.CacheType, name) for name in ("float32", "float16", "bfloat16")}


def cache_write(k: Float32, v: Float32, key_cache: Array, value_cache: Array, slots: NDArray[np.int64]) -> None:
    """Store each token's keys and values in its slot of the cache.

    Args:
        k, v: float32 (tokens, kv_heads, head_dim), contiguous.
        key_cache, value_cache: (num_blocks, block_size, kv_heads, head_dim) in float32, float16 or bfloat16.
        slots: int64 (tokens,): block * block_size + offset in the block.

    Raises:
        KernelError: a wrong dtype, shape or layout, or a slot outside the cache.
    """
    check_array("k", k, FLOAT32, (None, None, None))
    check_array("v", v, FLOAT32, k.shape)
    cache_type = check_caches(key_cache, value_cache, k.shape[1:])
    check_writable("key_cache", key_cache)
    check_writable("value_cache", value_cache)
    check_array("slots", slots, INT64, (k.shape[0],))
    check_bounds("slots", slots, key_cache.shape[0] * key_cache.shape[1], "the cache has that many slots")
    _native.cache_write(k, v, as_words(key_cache), as_words(value_cache), cache_type, slots)


def attend(
    q: Float32,
    key_cache: Array,
    value_cache: Array,
    block_tables: NDArray[np.int32],
    query_starts: NDArray[np.int32],
    context_lengths: NDArray[np.int32],
    *,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
    out: Float32 | None = None,
) -> Float32:
    """Causal attention of new tokens over their sequences' cached keys and values, their own included.

    The last new token of a sequence sits at position ``context_length - 1``. Head h reads key/value head
    ``h // (heads // kv_heads)``.

    Args:
        q: float32 (tokens, heads, head_dim), the new tokens of all sequences one after another.
        key_cache, value_cache: (num_blocks, block_size, kv_heads, head_dim) in float32, float16 or bfloat16.
        block_tables: int32 (sequences, max_blocks): the blocks of each sequence, in order.
        query_starts: int32 (sequences + 1,): the tokens of sequence i are query_starts[i] to query_starts[i + 1].
        context_lengths: int32 (sequences,): tokens of each sequence in the cache, the new ones included.
        scale: factor on the dot products.
        softcap: scores become ``softcap * tanh(score / softcap)``; 0: they do not.
        window: a query at position p sees keys p - window + 1 to p; 0: all up to p.
        out: where to put the result; must not overlap ``q``.

    Returns:
        float32 (tokens, heads, head_dim).

    Raises:
        KernelError: a wrong dtype, shape or layout, or lengths, starts or blocks that contradict one another.
    """
    check_array("q", q, FLOAT32, (None, None, None))
    tokens, heads, head_dim = q.shape
    cache_type = check_caches(key_cache, value_cache, (None, head_dim))
    num_blocks, block_size, kv_heads, _ = key_cache.shape
    if kv_heads == 0 or heads % kv_heads:
        raise KernelError(f"q has {heads} heads and the cache {kv_heads}; the first must be a multiple of the second")
    check_array("block_tables", block_tables, INT32, (None, None))
    sequences, max_blocks = block_tables.shape
    check_array("query_starts", query_starts, INT32, (sequences + 1,))
    check_array("context_lengths", context_lengths, INT32, (sequences,))
    if softcap < 0 or window < 0:
        raise KernelError(f"softcap={softcap}, window={window}: neither may be negative; 0 turns it off")
    check_sequences(query_starts, context_lengths, tokens, max_blocks * block_size)
    check_bounds("block_tables", block_tables, num_blocks, "the cache has that many blocks")
    out = output("out", out, q.shape)
    _native.attend(
        q,
        as_words(key_cache),
        as_words(value_cache),
        cache_type,
        block_tables,
        query_starts,
        context_lengths,
        out,
        scale,
        softcap,
        window,
    )
    return out


def check_caches(key_cache: Array, value_cache: Array, heads_and_dim: tuple[int | None, ...]) -> _native.CacheType:
    cache_type: _native.CacheType = choose("cache dtype", float_name("key_cache", key_cache), CACHE_TYPES)
    check_array("key_cache", key_cache, key_cache.dtype, (None, None, *heads_and_dim))
    check_array("value_cache", value_cache, key_cache.dtype, key_cache.shape)
    return cache_type


def check_sequences(starts: NDArray[np.int32], lengths: NDArray[np.int32], tokens: int, capacity: int) -> None:
    counts = np.diff(starts)
    if starts[0] != 0 or starts[-1] != tokens or (counts < 0).any():
        raise KernelError(f"query_starts {_brief(starts)} must rise from 0 to the {tokens} tokens of q")
    if (lengths < counts).any():
        raise KernelError(
            f"context_lengths {_brief(lengths)} include the new tokens, so none may be below {_brief(counts)}"
        )
    if (lengths > capacity).any():
        raise KernelError(f"context_lengths {_brief(lengths)} exceed the {capacity} slots of a row of block_tables")


def check_bounds(name: str, values: NDArray[np.integer], limit: int, reason: str) -> None:
    if values.size and (values.min() < 0 or values.max() >= limit):
        raise KernelError(f"{name} lie in [{values.min()}, {values.max()}]; 0 to {limit - 1} is needed: {reason}")


def _brief(values: NDArray[np.integer]) -> str:
    return str(values.tolist()) if values.size <= 8 else f"[{values[0]}, ..., {values[-1]}]"
