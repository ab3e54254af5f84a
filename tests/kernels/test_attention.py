from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

from flyweight import kernels
from flyweight.errors import KernelError
from flyweight.kernels import reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    q: np.ndarray
    key_cache: np.ndarray
    value_cache: np.ndarray
    block_tables: np.ndarray
    query_starts: np.ndarray
    context_lengths: np.ndarray

    def arrays(self):
        return [getattr(self, name) for name in self.__slots__]


def random_case(rng, *, new, cached, heads, kv_heads, head_dim, block_size=16, dtype=np.float32):
    """Sequences with shuffled blocks; slots that no sequence owns hold NaN, which must never be read into a result."""
    lengths = np.array(new) + np.array(cached)
    needed = -(-lengths // block_size)
    order = rng.permutation(needed.sum() + 3).astype(np.int32)
    tables = np.zeros((len(new), needed.max() + 1), np.int32)
    caches = np.full((2, needed.sum() + 3, block_size, kv_heads, head_dim), np.nan, np.float32)
    for row, (length, count, start) in enumerate(zip(lengths, needed, np.cumsum(needed) - needed, strict=True)):
        tables[row, :count] = order[start : start + count]
        for position in range(length):
            block = tables[row, position // block_size]
            caches[:, block, position % block_size] = rng.standard_normal((2, kv_heads, head_dim))
    return Case(
        q=rng.standard_normal((sum(new), heads, head_dim)).astype(np.float32),
        key_cache=caches[0].astype(dtype),
        value_cache=caches[1].astype(dtype),
        block_tables=tables,
        query_starts=np.concatenate([[0], np.cumsum(new)]).astype(np.int32),
        context_lengths=lengths.astype(np.int32),
    )


CASES = {
    "one token": {"new": [1], "cached": [0], "heads": 4, "kv_heads": 4, "head_dim": 16},
    "decode": {"new": [1, 1, 1], "cached": [5, 200, 63], "heads": 6, "kv_heads": 2, "head_dim": 64},
    "prefill": {"new": [130], "cached": [0], "heads": 4, "kv_heads": 1, "head_dim": 24},
    "chunks": {"new": [7, 0, 33, 1], "cached": [64, 10, 77, 0], "heads": 3, "kv_heads": 3, "head_dim": 80},
    "one head of many": {"new": [3], "cached": [4], "heads": 60, "kv_heads": 1, "head_dim": 5},
    "wide heads": {"new": [9], "cached": [140], "heads": 2, "kv_heads": 1, "head_dim": 256},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("options", [{}, {"window": 20}, {"softcap": 3.0, "window": 1}], ids=str)
def test_attention_agrees_with_its_twin(isa, rng, case, options):
    arrays = random_case(rng, **case).arrays()
    options = {"scale": case["head_dim"] ** -0.5} | options
    np.testing.assert_allclose(kernels.attend(*arrays, **options), reference.attend(*arrays, **options), atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_caches_are_read_exactly(isa, rng, dtype):
    arrays = random_case(
        rng, new=[5], cached=[70], heads=4, kv_heads=2, head_dim=40, block_size=8, dtype=dtype
    ).arrays()
    np.testing.assert_allclose(kernels.attend(*arrays, scale=0.2), reference.attend(*arrays, scale=0.2), atol=3e-6)


def test_large_scores_do_not_overflow(isa, rng):
    arrays = random_case(rng, new=[4], cached=[100], heads=2, kv_heads=2, head_dim=32).arrays()
    np.testing.assert_allclose(kernels.attend(*arrays, scale=1e3), reference.attend(*arrays, scale=1e3), atol=2e-3)


def test_inputs_that_are_not_numbers_are_not_hidden(isa, rng):
    case = random_case(rng, new=[3, 2], cached=[20, 9], heads=2, kv_heads=1, head_dim=24)
    case.q[1, 0] = np.nan
    case.key_cache[case.block_tables[1, 0], 10 % 16] = np.nan  # the last token of the second sequence
    finite = np.isfinite(kernels.attend(*case.arrays(), scale=0.2)).all(axis=2)
    assert finite.tolist() == [[True, True], [False, True], [True, True], [True, True], [False, False]]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("head_dim", [16, 5])
def test_cache_write_agrees_with_its_twin(isa, rng, dtype, head_dim):
    k = rng.standard_normal((2, 9, 3, head_dim)).astype(np.float32)
    k[0, 0, 0, :4] = 1e-6, 65519.0, 3e-39, -0.0  # subnormal and almost too large for 16 bits
    k[1, 0, 0, :2] = np.inf, np.nan
    slots = rng.permutation(32)[:9].astype(np.int64)
    written, expected = (np.zeros((2, 8, 4, 3, head_dim), dtype) for _ in range(2))
    kernels.cache_write(k[0], k[1], written[0], written[1], slots)
    with np.errstate(over="ignore"):
        reference.cache_write(k[0], k[1], expected[0], expected[1], slots)
    np.testing.assert_array_equal(written.astype(np.float32), expected.astype(np.float32))


def broken(**changes):
    case = random_case(np.random.default_rng(0), new=[2], cached=[3], heads=4, kv_heads=2, head_dim=8, block_size=4)
    arrays = {name: getattr(case, name) for name in Case.__slots__} | changes
    return lambda: kernels.attend(*arrays.values(), scale=1.0)


def integers(*values):
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (broken(q=np.ones((2, 3, 8), np.float32)), r"q has 3 heads and the cache 2"),
        (
            broken(block_tables=integers([0, 99, 0])),
            r"block_tables lie in \[0, 99\]; 0 to 4 is needed: the cache has that many blocks",
        ),
        (broken(query_starts=integers(0, 3)), r"query_starts \[0, 3\] must rise from 0 to the 2 tokens"),
        (broken(context_lengths=integers(1)), r"context_lengths \[1\] include the new tokens"),
        (broken(context_lengths=integers(13)), r"context_lengths \[13\] exceed the 12 slots"),
        (broken(value_cache=np.ones((5, 4, 2, 8), np.float16)), r"value_cache has dtype float16; float32 is needed"),
        (
            lambda: kernels.attend(
                *random_case(np.random.default_rng(0), new=[1], cached=[0], heads=1, kv_heads=1, head_dim=8).arrays(),
                scale=1.0,
                window=-1,
            ),
            r"window=-1: neither may be negative",
        ),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(KernelError, match=message):
        call()


def test_a_slot_outside_the_cache_is_refused():
    ones, cache = np.ones((1, 2, 8), np.float32), np.zeros((5, 4, 2, 8), np.float32)
    with pytest.raises(KernelError, match=r"slots lie in \[20, 20\]; 0 to 19 is needed"):
        kernels.cache_write(ones, ones, cache, cache.copy(), np.array([20]))
