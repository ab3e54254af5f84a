"""Attention over a paged key-value cache, and the writing of that cache. Owns no memory and no block lists."""

import numpy as np
from numpy.typing import NDArray

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.cache_layout import CACHE_TYPES, Cache, CacheLayout
from flyweight.kernels.checks import FLOAT32, Float32, check_array, check_writable, output

INT32, INT64, UINT8 = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.uint8)


def cache_write(k: Float32, v: Float32, cache: Cache, layout: CacheLayout, slots: NDArray[np.int64]) -> None:
    """Store each token's keys and values in its slot of the cache.

    A token in the first slot of a unit of 32 empties the unit: what an earlier owner left there is gone.

    Args:
        k, v: float32 (tokens, kv_heads, head_dim), contiguous.
        cache: uint8 (num_blocks, kv_heads, head_bytes), from ``layout.allocate``.
        slots: int64 (tokens,): block * block_size + offset in the block.

    Raises:
        KernelError: a wrong dtype, shape or memory order, or a slot outside the cache.
    """
    check_array("k", k, FLOAT32, (None, layout.kv_heads, layout.head_dim))
    check_array("v", v, FLOAT32, k.shape)
    check_cache(cache, layout)
    check_writable("cache", cache)
    check_array("slots", slots, INT64, (k.shape[0],))
    check_bounds("slots", slots, cache.shape[0] * layout.block_size, "the cache has that many slots")
    _native.cache_write(k, v, cache, CACHE_TYPES[layout.kv_dtype], layout.block_size, slots)


def attend(
    q: Float32,
    cache: Cache,
    layout: CacheLayout,
    block_tables: NDArray[np.int32],
    query_starts: NDArray[np.int32],
    context_lengths: NDArray[np.int32],
    *,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
    keep_first: int = 0,
    sinks: Float32 | None = None,
    out: Float32 | None = None,
) -> Float32:
    """Causal attention of new tokens over their sequences' cached keys and values, their own included.

    The last new token of a sequence sits at position ``context_length - 1``. Head h reads key/value head
    ``h // (heads // kv_heads)``. Blocks that several sequences hold are read once for all of them (``shared_keys``). A
    token's result is the same bits whatever other sequences are in the call and on any number of threads; and however
    its prompt was cut into calls, unless the cache is bfloat16 outside batch-invariant mode: there many queries of one
    sequence (48 rows, queries times heads of a group) are multiplied in whole numbers of 16 bits where no instruction
    multiplies bfloat16.

    Args:
        q: float32 (tokens, heads, head_dim), sequence after sequence.
        cache: uint8 (num_blocks, kv_heads, head_bytes), written by ``cache_write``.
        block_tables: int32 (sequences, max_blocks): the blocks of each sequence, in order. Entries of blocks that no
            query sees (before its window) may be any block of the cache.
        query_starts: int32 (sequences + 1,): the tokens of sequence i are query_starts[i] to query_starts[i + 1].
        context_lengths: int32 (sequences,): tokens of each sequence in the cache, the new ones included.
        scale: factor on the dot products.
        softcap: scores become ``softcap * tanh(score / softcap)``; 0: they do not.
        window: a query at position p sees keys p - window + 1 to p; 0: all up to p.
        keep_first: so many keys from the start of a sequence are seen whatever the window (StreamingLLM,
            arXiv:2309.17453).
        sinks: float32 (heads,): a logit in every softmax of the head that has no value, as gpt-oss learns it.
        out: where to put the result; must not overlap ``q``.

    Returns:
        float32 (tokens, heads, head_dim).

    Raises:
        KernelError: a wrong dtype, shape or memory order, or lengths, starts or blocks that contradict one another.
    """
    check_array("q", q, FLOAT32, (None, None, layout.head_dim))
    tokens, heads, _ = q.shape
    check_cache(cache, layout)
    if heads % layout.kv_heads:
        raise KernelError(f"q has {heads} heads and the cache {layout.kv_heads}; the first must be a multiple of it")
    check_array("block_tables", block_tables, INT32, (None, None))
    sequences, max_blocks = block_tables.shape
    check_array("query_starts", query_starts, INT32, (sequences + 1,))
    check_array("context_lengths", context_lengths, INT32, (sequences,))
    if softcap < 0 or window < 0 or keep_first < 0:
        raise KernelError(
            f"softcap={softcap}, window={window}, keep_first={keep_first}: none may be negative; 0 turns it off"
        )
    if sinks is not None:
        check_array("sinks", sinks, FLOAT32, (heads,))
    check_sequences(query_starts, context_lengths, tokens, max_blocks * layout.block_size)
    check_bounds("block_tables", block_tables, cache.shape[0], "the cache has that many blocks")
    out = output("out", out, q.shape)
    _native.attend(
        q,
        cache,
        CACHE_TYPES[layout.kv_dtype],
        layout.block_size,
        block_tables,
        query_starts,
        context_lengths,
        sinks,
        out,
        scale,
        softcap,
        window,
        keep_first,
    )
    return out


def shared_keys(
    block_tables: NDArray[np.int32],
    query_starts: NDArray[np.int32],
    context_lengths: NDArray[np.int32],
    *,
    block_size: int,
    window: int = 0,
    most_sequences: int = 128,
) -> list[tuple[list[int], int]]:
    """Which sequences of a call ``attend`` reads keys and values for together, since they hold the same blocks.

    Only sequences of one new token, without a window; at least two in a group, each in one group at most. A common
    beginning (a system prompt) is found, as many of those that begin alike as save most reading; not a tree of them.

    Args:
        block_tables, query_starts, context_lengths, window: as for ``attend``.
        most_sequences: in one group.

    Returns:
        For each group its sequences and how many first keys are shared, a multiple of 128.

    Raises:
        KernelError: a wrong dtype, shape or memory order, or lengths or starts that contradict one another.
    """
    check_array("block_tables", block_tables, INT32, (None, None))
    sequences, max_blocks = block_tables.shape
    check_array("query_starts", query_starts, INT32, (sequences + 1,))
    check_array("context_lengths", context_lengths, INT32, (sequences,))
    if block_size < 1 or window < 0:
        raise KernelError(f"block_size={block_size}, window={window}: the first must be positive, the other 0 or more")
    check_sequences(query_starts, context_lengths, int(query_starts[-1]), max_blocks * block_size)
    return _native.shared_keys(block_tables, query_starts, context_lengths, block_size, window, most_sequences)


def check_cache(cache: Cache, layout: CacheLayout) -> None:
    check_array("cache", cache, UINT8, (None, layout.kv_heads, layout.head_bytes))


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
