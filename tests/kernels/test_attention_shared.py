"""Sequences that hold the same blocks: these are read once for all of them, and nobody's result changes by a bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight import kernels
from flyweight.errors import KernelError
from flyweight.kernels import CacheLayout, reference_attention

BLOCK = 32


class Company:
    """Sequences of one new token whose block tables begin alike: ``shared`` blocks of each are those of the first.

    Args:
        lengths: tokens of each sequence, the new one included.
        shared: so many of each sequence's first blocks belong to the first sequence.
    """

    def __init__(self, rng, *, lengths, shared, kv_dtype="bfloat16", heads=4, kv_heads=2, head_dim=24):
        self.layout = CacheLayout(kv_dtype=kv_dtype, kv_heads=kv_heads, head_dim=head_dim, block_size=BLOCK)
        self.lengths = np.array(lengths, np.int32)
        blocks = [-(-length // BLOCK) for length in lengths]
        numbers = rng.permutation(sum(blocks) + 1).astype(np.int32)
        self.tables = np.zeros((len(lengths), max(blocks)), np.int32)
        for row, count in enumerate(blocks):
            self.tables[row, :count], numbers = numbers[:count], numbers[count:]
            common = min(shared[row], count, blocks[0])
            self.tables[row, :common] = self.tables[0, :common]
        self.cache = self.layout.allocate(sum(blocks) + 1)
        slots = np.arange(len(self.cache) * BLOCK)
        k, v = rng.standard_normal((2, len(slots), kv_heads, head_dim)).astype(np.float32)
        kernels.cache_write(k, v, self.cache, self.layout, slots)
        self.q = rng.standard_normal((len(lengths), heads, head_dim)).astype(np.float32)

    def attend(self, rows, *, attend=kernels.attend, **options):
        starts = np.arange(len(rows) + 1, dtype=np.int32)
        tables, lengths = np.ascontiguousarray(self.tables[rows]), self.lengths[rows]
        return attend(self.q[rows], self.cache, self.layout, tables, starts, lengths, scale=0.3, **options)

    def check(self, **options):
        together = self.attend(np.arange(len(self.lengths)), **options)
        for row in range(len(self.lengths)):
            np.testing.assert_array_equal(
                self.attend(np.array([row]), **options)[0], together[row], err_msg=f"row {row}"
            )
        return together


def shared_by(company, **options):
    starts = np.arange(len(company.lengths) + 1, dtype=np.int32)
    return kernels.shared_keys(company.tables, starts, company.lengths, block_size=BLOCK, **options)


SHAPES = {
    "all alike": {"lengths": [700, 650, 641, 900], "shared": [0, 20, 20, 20]},
    "whole chunks": {"lengths": [1030, 1025, 1100], "shared": [0, 32, 32]},
    "some": {"lengths": [420, 420, 300, 420, 40], "shared": [0, 12, 0, 9, 1]},
    "less than a tile": {"lengths": [140, 140], "shared": [0, 3]},
    "to the end of one": {"lengths": [512, 1000, 256], "shared": [0, 16, 8]},
    "the same twice": {"lengths": [384, 384], "shared": [0, 12]},
    "many": {"lengths": [260 + 3 * row for row in range(70)], "shared": [8] * 70},
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kv_dtype", kernels.KV_DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_company_changes_no_bit(isa, rng, shape, kv_dtype, threads):
    with kernels.use_threads(threads):
        Company(rng, **shape, kv_dtype=kv_dtype).check()


@pytest.mark.parametrize(
    "options",
    [{"softcap": 2.0}, {"sinks": np.linspace(-1, 2, 4, dtype=np.float32)}, {"window": 200}],
    ids=["softcap", "sinks", "window"],
)
def test_with_every_option(isa, rng, options):
    company = Company(rng, **SHAPES["all alike"])
    found = company.check(**options)
    expected = company.attend(np.arange(4), attend=reference_attention.attend, **options)
    np.testing.assert_allclose(found, expected, atol=2**-7)


def test_prompts_beside_them_are_not_touched(isa, rng):
    company = Company(rng, lengths=[700, 650, 641], shared=[0, 20, 20])
    q = rng.standard_normal((10, 4, 24)).astype(np.float32)
    starts, lengths = np.array([0, 1, 9, 10], np.int32), company.lengths
    found = kernels.attend(q, company.cache, company.layout, company.tables, starts, lengths, scale=0.3)
    expected = reference_attention.attend(q, company.cache, company.layout, company.tables, starts, lengths, scale=0.3)
    np.testing.assert_allclose(found, expected, atol=2**-7)


def test_what_is_not_a_number_stays_with_its_sequence(isa, rng):
    company = Company(rng, **SHAPES["all alike"])
    company.q[2, 1, 3] = np.nan
    finite = np.isfinite(company.attend(np.arange(4))).all(axis=2)
    expected = np.ones((4, 4), bool)
    expected[2, 1] = False
    np.testing.assert_array_equal(finite, expected)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data(), count=st.integers(2, 7), seed=st.integers(0, 1000))
def test_any_company(data, count, seed):
    lengths = data.draw(st.lists(st.integers(1, 1200), min_size=count, max_size=count))
    shared = data.draw(st.lists(st.integers(0, 40), min_size=count, max_size=count))
    Company(np.random.default_rng(seed), lengths=lengths, shared=shared, head_dim=16).check()


@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ("all alike", [([0, 1, 2, 3], 640)]),
        ("whole chunks", [([0, 1, 2], 1024)]),
        ("some", [([0, 1, 3], 256)]),  # reading 256 keys twice less saves more than 384 once
        ("less than a tile", []),
        ("to the end of one", [([0, 1], 512)]),
        ("the same twice", [([0, 1], 384)]),
    ],
)
def test_who_shares_what(rng, shape, groups):
    company = Company(rng, **SHAPES[shape])
    assert [(sorted(sequences), key_end) for sequences, key_end in shared_by(company)] == groups
    assert shared_by(company, window=100) == []


def test_two_beginnings_are_two_groups_and_large_groups_are_cut(rng):
    company = Company(rng, lengths=[400] * 6, shared=[0, 12, 12, 0, 12, 0])
    company.tables[5, :12] = company.tables[3, :12]
    assert sorted((sorted(rows), end) for rows, end in shared_by(company)) == [([0, 1, 2, 4], 384), ([3, 5], 384)]
    many = shared_by(Company(rng, **SHAPES["many"]), most_sequences=32)
    assert [len(rows) for rows, _ in many] == [32, 32, 6]
    assert sorted(row for rows, _ in many for row in rows) == list(range(70))


def test_prompts_share_nothing(rng):
    company = Company(rng, lengths=[700, 650, 641], shared=[0, 20, 20])
    starts = np.array([0, 2, 3, 4], np.int32)
    found = kernels.shared_keys(company.tables, starts, company.lengths, block_size=BLOCK)
    assert [(sorted(rows), end) for rows, end in found] == [([1, 2], 640)]


def test_lengths_beyond_the_tables_are_refused(rng):
    company = Company(rng, **SHAPES["the same twice"])
    company.lengths[1] = 12 * BLOCK + 1
    with pytest.raises(KernelError, match="exceed the 384 slots"):
        shared_by(company)
    with pytest.raises(KernelError, match="block_size=0"):
        kernels.shared_keys(company.tables, np.arange(3, dtype=np.int32), company.lengths, block_size=0)
