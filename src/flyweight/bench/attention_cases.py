"""Paged attention as kernel cases: one new token, or a chunk of a prompt, after so many tokens in the cache."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from flyweight import kernels
from flyweight.bench.cases import Case, CaseGroup, in_turn
from flyweight.models.spec import AttentionSpec, ModelSpec

MOST_LAYERS = 64


def attention_groups(
    spec: ModelSpec,
    *,
    kv_dtypes: Sequence[kernels.KVDtype],
    rows: Sequence[int],
    depths: Sequence[int],
    working_set: int,
) -> Iterator[CaseGroup]:
    """One group for each type of cache and depth; its cases are chunks of ``rows`` new tokens of one sequence.

    Args:
        working_set: bytes of keys and values that successive calls walk through, as the layers of a model do.
    """
    attention = spec.blocks[0].attention
    for kv_dtype in kv_dtypes:
        layout = kernels.CacheLayout(kv_dtype=kv_dtype, kv_heads=attention.num_kv_heads, head_dim=attention.head_dim)
        for depth in depths:
            name = f"attention {kv_dtype} depth {depth}"
            build = partial(_build, name, attention, layout, depth, tuple(rows), working_set)
            yield CaseGroup(name=name, kind="attention", build=build)


def _build(
    name: str,
    attention: AttentionSpec,
    layout: kernels.CacheLayout,
    depth: int,
    rows: Sequence[int],
    working_set: int,
) -> list[Case]:
    generator = np.random.default_rng(0)
    num_blocks = -(-(depth + max(rows)) // layout.block_size)
    num_layers = max(1, min(MOST_LAYERS, working_set // (num_blocks * layout.block_bytes)))
    first = layout.allocate(num_blocks)
    tokens = num_blocks * layout.block_size
    shape = (tokens, attention.num_kv_heads, attention.head_dim)
    keys, values = (generator.standard_normal(shape, dtype=np.float32) for _ in range(2))
    kernels.cache_write(keys, values, first, layout, np.arange(tokens))
    caches = [first]
    for _ in range(num_layers - 1):
        caches.append(layout.allocate(num_blocks))
        caches[-1][...] = first
    table = generator.permutation(num_blocks).astype(np.int32)[None]
    cases = []
    for count in rows:
        context = depth + count
        q = generator.standard_normal((count, attention.num_heads, attention.head_dim), dtype=np.float32)
        out = np.empty_like(q)
        starts, lengths = np.array([0, count], np.int32), np.array([context], np.int32)
        seen = count * depth + count * (count + 1) // 2  # each query sees the depth and the chunk up to itself
        calls = [
            partial(kernels.attend, q, cache, layout, table, starts, lengths, scale=attention.scale, out=out)
            for cache in caches
        ]
        cases.append(
            Case(
                name=name,
                kind="attention",
                size=f"{attention.num_heads}/{attention.num_kv_heads} heads x {attention.head_dim}",
                rows=count,
                nbytes=-(-context // layout.block_size) * layout.block_bytes + 2 * q.nbytes,
                operations=4 * attention.num_heads * attention.head_dim * seen,
                arithmetic="bfloat16",
                memory="memory",
                call=in_turn(calls),
            )
        )
    return cases
