from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight import kernels
from flyweight.errors import KernelError
from flyweight.kernels import CacheLayout, reference_attention

# How far a kernel may be from its twin, for values of size 1: see reference_attention.
BOUNDS = {"float32": 3e-6, "float16": 3e-6, "bfloat16": 2**-7, "int8": 5e-4, "int4": 5e-4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    q: np.ndarray
    cache: np.ndarray
    layout: CacheLayout
    block_tables: np.ndarray
    query_starts: np.ndarray
    context_lengths: np.ndarray

    def arguments(self) -> list[Any]:
        return [getattr(self, name) for name in self.__slots__]


def slots_of(case: Case, sequence: int, positions: np.ndarray) -> np.ndarray:
    size = case.layout.block_size
    return case.block_tables[sequence, positions // size].astype(np.int64) * size + positions % size


def random_case(
    rng, *, new, cached, heads, kv_heads, head_dim, block_size=32, kv_dtype="float32", write=kernels.cache_write
):
    """Sequences with shuffled blocks in a cache full of NaN, of which nothing may reach a result."""
    layout = CacheLayout(kv_dtype=kv_dtype, kv_heads=kv_heads, head_dim=head_dim, block_size=block_size)
    lengths = np.array(new) + np.array(cached)
    needed = -(-lengths // block_size)
    order = rng.permutation(needed.sum() + 3).astype(np.int32)
    tables = np.zeros((len(new), needed.max() + 1), np.int32)
    for row, (count, start) in enumerate(zip(needed, np.cumsum(needed) - needed, strict=True)):
        tables[row, :count] = order[start : start + count]
    cache = layout.allocate(len(order))
    cache[...] = 0xFF
    case = Case(
        q=rng.standard_normal((sum(new), heads, head_dim)).astype(np.float32),
        cache=cache,
        layout=layout,
        block_tables=tables,
        query_starts=np.concatenate([[0], np.cumsum(new)]).astype(np.int32),
        context_lengths=lengths.astype(np.int32),
    )
    for row, length in enumerate(lengths):
        k, v = rng.standard_normal((2, length, kv_heads, head_dim)).astype(np.float32)
        write(k, v, cache, layout, slots_of(case, row, np.arange(length)))
    return case


CASES = {
    "one token": {"new": [1], "cached": [0], "heads": 4, "kv_heads": 4, "head_dim": 16},
    "decode": {"new": [1, 1, 1], "cached": [5, 200, 63], "heads": 8, "kv_heads": 2, "head_dim": 64},
    "prefill": {"new": [130], "cached": [0], "heads": 4, "kv_heads": 1, "head_dim": 24},
    "ragged": {"new": [7, 0, 33, 1], "cached": [64, 10, 77, 0], "heads": 3, "kv_heads": 3, "head_dim": 80},
    "pairs of heads": {"new": [3, 1], "cached": [28, 31], "heads": 4, "kv_heads": 2, "head_dim": 48, "block_size": 64},
    "six to one": {"new": [2], "cached": [95], "heads": 12, "kv_heads": 2, "head_dim": 32},
    "eight to one": {"new": [12], "cached": [125], "heads": 8, "kv_heads": 1, "head_dim": 96},
    "one head of many": {"new": [3], "cached": [4], "heads": 60, "kv_heads": 1, "head_dim": 5},
    "wide heads": {"new": [9], "cached": [140], "heads": 2, "kv_heads": 1, "head_dim": 256},
    "long": {"new": [1, 2], "cached": [1200, 1023], "heads": 4, "kv_heads": 1, "head_dim": 128, "block_size": 96},
}
OPTIONS = [
    {},
    {"window": 20},
    {"softcap": 3.0, "window": 1},
    {"window": 9, "keep_first": 4},
    {"window": 300, "keep_first": 40},
    {"sinks": 1.5},
]


def options_for(case, options):
    chosen = {"scale": case.layout.head_dim**-0.5} | options
    if "sinks" in options:
        chosen["sinks"] = np.linspace(-1, options["sinks"], case.q.shape[1], dtype=np.float32)
    return chosen


@pytest.mark.parametrize("kv_dtype", kernels.KV_DTYPES)
@pytest.mark.parametrize("shape", CASES.values(), ids=CASES.keys())
def test_attention_agrees_with_its_twin(isa, rng, shape, kv_dtype):
    case = random_case(rng, **shape, kv_dtype=kv_dtype)
    for options in OPTIONS:
        options = options_for(case, options)
        expected = reference_attention.attend(*case.arguments(), **options)
        np.testing.assert_allclose(
            kernels.attend(*case.arguments(), **options), expected, atol=BOUNDS[kv_dtype], err_msg=str(options)
        )


@pytest.fixture
def batch_invariant():
    with kernels.use_batch_invariant(True):
        yield


@pytest.mark.parametrize("kv_dtype", kernels.KV_DTYPES)
@pytest.mark.parametrize("options", [{}, {"window": 700}, {"window": 100, "keep_first": 3}], ids=str)
def test_the_same_bits_alone_and_in_company_and_however_a_prompt_is_cut(isa, rng, request, kv_dtype, options):
    shape = {"new": [50, 1300, 1], "cached": [3, 0, 900], "heads": 4, "kv_heads": 2, "head_dim": 32}
    case = random_case(rng, **shape, kv_dtype=kv_dtype, write=kernels.cache_write)
    if kv_dtype == "bfloat16":  # else many rows of one task are multiplied in whole numbers
        request.getfixturevalue("batch_invariant")
    with kernels.use_threads(2):
        together = kernels.attend(*case.arguments(), scale=0.3, **options)
    length = case.context_lengths[1]
    with kernels.use_threads(1):
        for begin, end in [(0, 1), (1, 600), (600, 1299), (1299, 1300)]:
            part = case.q[50 + begin : 50 + end]
            alone = kernels.attend(
                part,
                case.cache,
                case.layout,
                case.block_tables[1:2],
                np.array([0, len(part)], np.int32),
                np.array([length - (1300 - end)], np.int32),
                scale=0.3,
                **options,
            )
            np.testing.assert_array_equal(alone, together[50 + begin : 50 + end])
    for threads in (1, 2):  # few queries are cut along their keys too
        with kernels.use_threads(threads):
            alone = kernels.attend(
                case.q[-1:],
                case.cache,
                case.layout,
                case.block_tables[2:],
                np.array([0, 1], np.int32),
                case.context_lengths[2:],
                scale=0.3,
                **options,
            )
        np.testing.assert_array_equal(alone, together[-1:])


def test_large_scores_do_not_overflow(isa, rng):
    case = random_case(rng, new=[4], cached=[100], heads=2, kv_heads=2, head_dim=32)
    expected = reference_attention.attend(*case.arguments(), scale=1e3)
    np.testing.assert_allclose(kernels.attend(*case.arguments(), scale=1e3), expected, atol=2e-3)


@pytest.mark.parametrize("kv_dtype", kernels.KV_DTYPES)
def test_inputs_that_are_not_numbers_are_not_hidden(isa, rng, kv_dtype):
    case = random_case(rng, new=[3, 2], cached=[20, 9], heads=2, kv_heads=1, head_dim=24, kv_dtype=kv_dtype)
    case.q[1, 0] = np.nan
    k, v = np.ones((2, 1, 1, 24), np.float32)
    k[0, 0, 3] = np.nan
    kernels.cache_write(k, v, case.cache, case.layout, slots_of(case, 1, np.array([10])))  # its last token
    finite = np.isfinite(kernels.attend(*case.arguments(), scale=0.2)).all(axis=2)
    assert finite.tolist() == [[True, True], [False, True], [True, True], [True, True], [False, False]]
    kernels.cache_write(v, k, case.cache, case.layout, slots_of(case, 0, np.array([0])))  # a value that all of them see
    assert not np.isfinite(kernels.attend(*case.arguments(), scale=0.2)[:3]).all(axis=2).any()


@pytest.mark.parametrize("kv_dtype", kernels.KV_DTYPES)
@pytest.mark.parametrize("head_dim", [64, 40, 5])
def test_cache_write_agrees_with_its_twin(isa, rng, kv_dtype, head_dim):
    layout = CacheLayout(kv_dtype=kv_dtype, kv_heads=3, head_dim=head_dim, block_size=64)
    written, expected = layout.allocate(2), layout.allocate(2)
    for slots in (np.array([0, 1, 2, 33, 32, 96, 64, 127, 100]), np.array([32, 3])):
        k = (rng.standard_normal((2, len(slots), 3, head_dim)) * [[[[30.0]]], [[[0.1]]]]).astype(np.float32)
        k[0, 0, 0, :4] = 1e-6, 65519.0, 3e-39, -0.0  # subnormal and almost too large for 16 bits
        k[0, 1, 1], k[1, 1, 1] = 2.5, 0.0
        k[1, 0, 0, :2] = np.inf, np.nan
        kernels.cache_write(k[0], k[1], written, layout, slots)
        with np.errstate(over="ignore"):
            reference_attention.cache_write(k[0], k[1], expected, layout, slots)
        for ours, twins in zip(
            reference_attention.read_cache(written, layout),
            reference_attention.read_cache(expected, layout),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, twins)


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40),
    st.sampled_from([15, 255]),
)
@settings(max_examples=200, deadline=None)
def test_codes_reach_every_number_within_half_a_step(values, steps):
    x = np.array(values, np.float32)
    codes, scale, offset = reference_attention.quantize_cached(x, steps)
    assert codes.max() <= steps
    read = np.float64(offset) + np.float64(scale) * codes
    slack = 1e-5 * np.abs(x).max() + 255e-30  # float32 arithmetic, and a scale too small to keep
    assert (np.abs(read - x) <= 0.5001 * scale + slack).all()
    assert np.float64(scale) * steps <= 1.01 * (np.float64(x.max()) - x.min() + np.abs(x).max() / 64) + 1e-30


def test_quantized_caches_are_as_small_as_they_say():
    size = {
        name: CacheLayout(kv_dtype=name, kv_heads=8, head_dim=64).block_bytes / (32 * 8 * 64 * 2)
        for name in kernels.KV_DTYPES
    }
    assert size == pytest.approx({"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1.09375, "int4": 0.59375})


def broken(**changes):
    case = random_case(np.random.default_rng(0), new=[2], cached=[33], heads=4, kv_heads=2, head_dim=8)
    arrays = {name: getattr(case, name) for name in Case.__slots__}
    options = {name: changes.pop(name) for name in list(changes) if name not in arrays}
    return lambda: kernels.attend(*(arrays | changes).values(), **({"scale": 1.0} | options))


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
        (broken(context_lengths=integers(97)), r"context_lengths \[97\] exceed the 96 slots"),
        (broken(cache=np.ones((5, 2, 8), np.uint8)), r"cache has shape \(5, 2, 8\); \(any, 2, 4096\) is needed"),
        (broken(window=-1), r"window=-1, keep_first=0: none may be negative"),
        (broken(sinks=np.ones(3, np.float32)), r"sinks has shape \(3,\); \(4\) is needed"),
        (lambda: CacheLayout(kv_dtype="int3", kv_heads=1, head_dim=8), r"kv_dtype='int3' is unknown; choose float32,"),
        (
            lambda: CacheLayout(kv_dtype="int4", kv_heads=1, head_dim=8, block_size=16),
            r"block_size=16 is not allowed; choose a multiple of 32",
        ),
    ],
)
def test_errors_name_what_is_wrong(call, message):
    with pytest.raises(KernelError, match=message):
        call()


def test_a_slot_outside_the_cache_is_refused():
    layout = CacheLayout(kv_dtype="float32", kv_heads=2, head_dim=8)
    ones = np.ones((1, 2, 8), np.float32)
    with pytest.raises(KernelError, match=r"slots lie in \[160, 160\]; 0 to 159 is needed"):
        kernels.cache_write(ones, ones, layout.allocate(5), layout, np.array([160]))
