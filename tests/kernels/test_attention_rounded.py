"""Attention of many rows over a bfloat16 cache in whole numbers, where the instruction set does it so."""

import ml_dtypes
import numpy as np
import pytest

from flyweight import kernels
from flyweight.kernels import CacheLayout, reference_attention

HEADS, KV_HEADS, HEAD_DIM = 8, 2, 72  # 72 numbers: a whole sum of 64 and the beginning of another
LENGTH, NEW = 700, 64
ROUNDS = [name for name in ("generic", "avx2") if name in kernels.available_isas()]


@pytest.fixture(params=ROUNDS)
def rounding_isa(request):
    with kernels.use_isa(request.param):
        yield request.param


class Prompt:
    """The last 64 of 700 tokens, whose queries are bfloat16 already: then only the products differ from the twin's."""

    def __init__(self, rng, *, query_size=1.0, head_dim=HEAD_DIM):
        self.layout = CacheLayout(kv_dtype="bfloat16", kv_heads=KV_HEADS, head_dim=head_dim)
        self.cache = self.layout.allocate(-(-LENGTH // 32))
        self.keys, self.values = rng.standard_normal((2, LENGTH, KV_HEADS, head_dim)).astype(np.float32)
        queries = query_size * rng.standard_normal((NEW, HEADS, head_dim))
        self.q = queries.astype(ml_dtypes.bfloat16).astype(np.float32)

    def arguments(self):
        kernels.cache_write(self.keys, self.values, self.cache, self.layout, np.arange(LENGTH))
        tables = np.arange(len(self.cache), dtype=np.int32)[None]
        starts, lengths = np.array([0, NEW], np.int32), np.array([LENGTH], np.int32)
        return self.q, self.cache, self.layout, tables, starts, lengths

    def attend(self, *, batch_invariant=False, **options):
        with kernels.use_batch_invariant(batch_invariant):
            return kernels.attend(*self.arguments(), scale=0.125, **options)

    def expected(self, **options):
        return reference_attention.attend(*self.arguments(), scale=0.125, **options)


def spread(ours, expected):
    return np.sqrt(np.mean((ours - expected) ** 2))


def distance(ours, expected):
    return np.abs(ours - expected).max()


@pytest.mark.parametrize(
    "options",
    [{}, {"window": 70}, {"window": 300, "keep_first": 5}, {"softcap": 2.0}, {"sinks": np.ones(HEADS, np.float32)}],
    ids=["all", "window", "first", "softcap", "sinks"],
)
def test_it_is_nearer_to_the_twin_than_products_of_bfloat16(rounding_isa, rng, options):
    prompt = Prompt(rng)
    rounded, expected = prompt.attend(**options), prompt.expected(**options)
    assert distance(rounded, expected) < 5e-4
    assert spread(rounded, expected) < 0.7 * spread(prompt.attend(batch_invariant=True, **options), expected)


def test_one_large_number_does_not_drown_the_others(rounding_isa, rng):
    prompt = Prompt(rng)
    prompt.keys[..., 3] *= 30
    prompt.q[..., 3] /= 32
    prompt.values[..., 5] *= 1000
    error = np.abs(prompt.attend() - prompt.expected()).max(axis=(0, 1))
    assert np.delete(error, 5).max() < 5e-3
    assert error[5] < 5.0


def test_zeros_and_numbers_too_small_to_scale(rounding_isa, rng):
    prompt = Prompt(rng)
    prompt.keys[:300] = 0
    prompt.values[..., :16] = 1e-38
    np.testing.assert_allclose(prompt.attend(), prompt.expected(), atol=5e-4)


def test_weights_far_below_the_largest(rounding_isa, rng):
    prompt = Prompt(rng, query_size=30)
    assert distance(prompt.attend(), prompt.expected()) < 0.03


def test_large_numbers_do_not_overflow(rounding_isa, rng):
    size = 1e35
    prompt = Prompt(rng)
    prompt.values = np.clip(prompt.values, -1, 1) * size
    error = distance(prompt.attend() / size, prompt.expected() / size)
    assert error < 5e-4


@pytest.mark.parametrize("size", [1.0, -3.0])
def test_the_largest_sums_fit(rounding_isa, rng, size):
    prompt = Prompt(rng, head_dim=128)
    prompt.q[...], prompt.keys[...], prompt.values[...] = 1.0, size, size
    np.testing.assert_allclose(prompt.attend(), size, rtol=1e-3)


@pytest.mark.parametrize("sinks", [None, np.ones(HEADS, np.float32)], ids=["no sinks", "sinks"])
def test_what_is_not_a_number_shows_and_spoils_nothing_else(rounding_isa, rng, sinks):
    prompt = Prompt(rng)
    clean = prompt.attend(sinks=sinks)
    prompt.q[7, 3, 1] = np.inf
    prompt.keys[650, 1, 2] = np.nan  # position 650 is seen from the 15th new token on, by the second half of the heads
    found = np.isfinite(prompt.attend(sinks=sinks)).all(axis=2)
    expected = np.ones((NEW, HEADS), bool)
    expected[7, 3] = False
    expected[14:, HEADS // 2 :] = False
    np.testing.assert_array_equal(found, expected)
    untouched = prompt.attend(sinks=sinks)[found]
    np.testing.assert_allclose(untouched, clean[found], atol=2**-7)
    prompt.keys[650, 1, 2], prompt.values[0, 0, 0] = 0.0, -np.inf
    assert not np.isfinite(prompt.attend(sinks=sinks)[:, : HEADS // 2, 0]).any()


def test_the_same_bits_on_any_number_of_threads_and_in_any_company(rounding_isa, rng):
    prompt = Prompt(rng)
    q, cache, layout, tables, starts, lengths = prompt.arguments()
    with kernels.use_threads(1):
        alone = prompt.attend()
    with kernels.use_threads(2):
        np.testing.assert_array_equal(prompt.attend(), alone)
        starts, lengths = np.array([0, 1, 1 + NEW], np.int32), np.array([9, LENGTH], np.int32)
        tables = np.concatenate([tables, tables])
        q = np.concatenate([q[:1], q])
        together = kernels.attend(q, cache, layout, tables, starts, lengths, scale=0.125)
    np.testing.assert_array_equal(together[1:], alone)


def test_few_rows_and_the_batch_invariant_mode_take_the_other_way(rounding_isa, rng):
    prompt = Prompt(rng)
    q, cache, layout, tables, _, _ = prompt.arguments()
    exact = prompt.attend(batch_invariant=True)
    assert (prompt.attend() != exact).any()
    starts, lengths = np.array([0, 4], np.int32), np.array([LENGTH - NEW + 4], np.int32)
    few = kernels.attend(q[:4], cache, layout, tables, starts, lengths, scale=0.125)
    np.testing.assert_array_equal(few, exact[:4])
