"""The cache's accounts: every block has one owner, and a plan's slots are where the block tables say."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flyweight.errors import ResourceError
from flyweight.models import read_spec
from flyweight.runtime.kv_cache import CachedSequence, KVCache
from tests.support.checkpoints import tiny_llama_config

NUM_BLOCKS, BLOCK_SIZE = 12, 4


class Accounts(RuleBasedStateMachine):
    """Random growing, planning and releasing of up to four sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = KVCache((), num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)
        self.sequences = [CachedSequence() for _ in range(4)]
        self.written: dict[int, tuple[int, int]] = {}  # slot -> (sequence, position)

    @rule(which=st.integers(0, 3), length=st.integers(0, 60))
    def grow(self, which: int, length: int) -> None:
        sequence = self.sequences[which]
        before, free = list(sequence.blocks), self.cache.num_free_blocks
        missing = max(0, self.cache.blocks_needed(length) - len(before))
        if missing > free:
            with pytest.raises(ResourceError, match=f"has {free} free blocks of 4 tokens and {missing} are needed"):
                self.cache.grow(sequence, length)
            assert sequence.blocks == before
        else:
            self.cache.grow(sequence, length)
            assert sequence.blocks[: len(before)] == before
            assert len(sequence.blocks) * BLOCK_SIZE >= length

    @rule(counts=st.lists(st.integers(1, 9), min_size=1, max_size=4), all_logits=st.booleans())
    def plan(self, counts: list[int], all_logits: bool) -> None:
        chosen = self.sequences[: len(counts)]
        starts = [sequence.length for sequence in chosen]
        needed = sum(
            max(0, self.cache.blocks_needed(start + count) - len(sequence.blocks))
            for sequence, start, count in zip(chosen, starts, counts, strict=True)
        )
        if needed > self.cache.num_free_blocks:
            return
        batch = self.cache.plan(chosen, [[7] * count for count in counts], all_logits=all_logits)
        assert batch.query_starts.tolist() == [0, *np.cumsum(counts)]
        assert batch.context_lengths.tolist() == [a + b for a, b in zip(starts, counts, strict=True)]
        last = batch.query_starts[1:] - 1
        assert batch.output_rows.tolist() == (list(range(sum(counts))) if all_logits else last.tolist())
        for row, (sequence, count) in enumerate(zip(chosen, counts, strict=True)):
            assert sequence.length == starts[row] + count
            for token in range(batch.query_starts[row], batch.query_starts[row + 1]):
                position, slot = int(batch.positions[token]), int(batch.slots[token])
                assert position == starts[row] + token - batch.query_starts[row]
                assert slot // BLOCK_SIZE == batch.block_tables[row, position // BLOCK_SIZE]
                assert slot % BLOCK_SIZE == position % BLOCK_SIZE
                assert slot not in self.written, "a slot was given out twice"
                self.written[slot] = (self.sequences.index(sequence), position)

    @rule(which=st.integers(0, 3))
    def release(self, which: int) -> None:
        self.cache.release(self.sequences[which])
        assert self.sequences[which] == CachedSequence()
        self.written = {slot: owner for slot, owner in self.written.items() if owner[0] != which}

    @invariant()
    def every_block_has_one_owner(self) -> None:
        owned = [block for sequence in self.sequences for block in sequence.blocks]
        assert len(set(owned)) == len(owned)
        assert len(owned) + self.cache.num_free_blocks == NUM_BLOCKS
        assert set(owned) <= set(range(NUM_BLOCKS))
        assert {slot // BLOCK_SIZE for slot in self.written} <= set(owned)


Accounts.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAccounts = Accounts.TestCase


def test_arrays_have_the_shapes_and_bytes_that_were_asked_for() -> None:
    spec = read_spec(tiny_llama_config(num_layers=3))
    cache = KVCache(spec.blocks[1:], num_blocks=5, block_size=8, dtype="bfloat16")
    keys, values = cache.layer(1)
    assert keys.shape == values.shape == (5, 8, 2, 16)
    assert cache.nbytes == 2 * 2 * 5 * 8 * 2 * 16 * 2
    assert cache.layer(2)[0] is cache.keys[1]
