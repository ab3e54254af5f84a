"""Paged attention as kernel cases: one new token, or a chunk of a prompt, after so many tokens in the cache."""

from collections.abc import Iterator, Sequence
from functools import partial

import ml_dtypes
import numpy as np

from flyweight import kernels
from flyweight.bench.cases import Case, CaseGroup, in_turn
from flyweight.models.spec import AttentionSpec, ModelSpec
from flyweight.runtime.kv_cache import BLOCK_SIZE

MOST_LAYERS = 64


def attention_groups(
    spec: ModelSpec, *, rows: Sequence[int], depths: Sequence[int], working_set: int
) -> Iterator[CaseGroup]:
    """One group for each depth; its cases are chunks of ``rows`` new tokens of one sequence.

    Args:
        working_set: bytes of keys and values that successive calls walk through, as the layers of a model do.
    """
    attention = spec.blocks[0].attention
    for depth in depths:
        name = f"attention bfloat16 depth {depth}"
        yield CaseGroup(
            name=name, kind="attention", build=partial(_build, name, attention, depth, tuple(rows), working_set)
        )


def _build(name: str, attention: AttentionSpec, depth: int, rows: Sequence[int], working_set: int) -> list[Case]:
    generator = np.random.default_rng(0)
    length = depth + max(rows)
    num_blocks = -(-length // BLOCK_SIZE)
    shape = (num_blocks, BLOCK_SIZE, attention.num_kv_heads, attention.head_dim)
    once = 2 * 2 * int(np.prod(shape))
    num_layers = max(1, min(MOST_LAYERS, working_set // once))
    values = generator.standard_normal(shape, dtype=np.float32).astype(ml_dtypes.bfloat16)
    caches = [(values.copy(), values.copy()) for _ in range(num_layers)]
    table = generator.permutation(num_blocks).astype(np.int32)[None]
    cases = []
    for count in rows:
        context = depth + count
        q = generator.standard_normal((count, attention.num_heads, attention.head_dim), dtype=np.float32)
        out = np.empty_like(q)
        starts, lengths = np.array([0, count], np.int32), np.array([context], np.int32)
        seen = count * depth + count * (count + 1) // 2  # keys over all queries: each sees the depth and its own past
        calls = [
            partial(kernels.attend, q, keys, vals, table, starts, lengths, scale=attention.scale, out=out)
            for keys, vals in caches
        ]
        cases.append(
            Case(
                name=name,
                kind="attention",
                size=f"{attention.num_heads}/{attention.num_kv_heads} heads x {attention.head_dim}",
                rows=count,
                nbytes=2 * 2 * context * attention.num_kv_heads * attention.head_dim + 2 * q.nbytes,
                operations=4 * attention.num_heads * attention.head_dim * seen,
                arithmetic="bfloat16",
                call=in_turn(calls),
            )
        )
    return cases
