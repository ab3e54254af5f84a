"""A planner's accounts: every block has one owner, and a batch's slots are where its block tables say."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flyweight.errors import ResourceError
from flyweight.runtime.sequences import BatchRow, CachedSequence, FreeBlocks, SequencePlanner, make_batch

NUM_BLOCKS, BLOCK_SIZE = 12, 4


class Accounts(RuleBasedStateMachine):
    """Random growing, planning and releasing of up to four sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.planner = SequencePlanner(FreeBlocks(NUM_BLOCKS), block_size=BLOCK_SIZE)
        self.sequences = [CachedSequence() for _ in range(4)]
        self.written: dict[int, tuple[int, int]] = {}  # slot -> (sequence, position)

    @rule(which=st.integers(0, 3), length=st.integers(0, 60))
    def grow(self, which: int, length: int) -> None:
        sequence = self.sequences[which]
        before, free = list(sequence.blocks), self.planner.num_free_blocks
        missing = max(0, self.planner.blocks_needed(length) - len(before))
        if missing > free:
            with pytest.raises(ResourceError, match=f"has {free} free blocks of 4 tokens and {missing} are needed"):
                self.planner.grow(sequence, length)
            assert sequence.blocks == before
        else:
            self.planner.grow(sequence, length)
            assert sequence.blocks[: len(before)] == before
            assert len(sequence.blocks) * BLOCK_SIZE >= length

    @rule(counts=st.lists(st.integers(1, 9), min_size=1, max_size=4), all_logits=st.booleans())
    def plan(self, counts: list[int], all_logits: bool) -> None:
        chosen = self.sequences[: len(counts)]
        starts = [sequence.length for sequence in chosen]
        needed = sum(
            max(0, self.planner.blocks_needed(start + count) - len(sequence.blocks))
            for sequence, start, count in zip(chosen, starts, counts, strict=True)
        )
        if needed > self.planner.num_free_blocks:
            return
        batch = self.planner.plan(chosen, [[7] * count for count in counts], all_logits=all_logits)
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
        self.planner.release(self.sequences[which])
        assert self.sequences[which] == CachedSequence()
        self.written = {slot: owner for slot, owner in self.written.items() if owner[0] != which}

    @invariant()
    def every_block_has_one_owner(self) -> None:
        owned = [block for sequence in self.sequences for block in sequence.blocks]
        assert len(set(owned)) == len(owned)
        assert len(owned) + self.planner.num_free_blocks == NUM_BLOCKS
        assert set(owned) <= set(range(NUM_BLOCKS))
        assert {slot // BLOCK_SIZE for slot in self.written} <= set(owned)


Accounts.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAccounts = Accounts.TestCase


def test_a_row_may_want_the_logits_of_its_last_few_tokens_or_of_none() -> None:
    rows = [
        BatchRow(token_ids=[1, 2, 3], start=2, blocks=[4, 9], num_outputs=2),
        BatchRow(token_ids=[4, 5], start=0, blocks=[7], num_outputs=0),
        BatchRow(token_ids=[6], start=8, blocks=[1, 2, 3], num_outputs=1),
    ]
    batch = make_batch(rows, BLOCK_SIZE)
    assert batch.token_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.positions.tolist() == [2, 3, 4, 0, 1, 8]
    assert batch.slots.tolist() == [18, 19, 36, 28, 29, 12]
    assert batch.output_rows.tolist() == [1, 2, 5]
    assert batch.context_lengths.tolist() == [5, 2, 9]
    assert batch.block_tables.tolist() == [[4, 9, 0], [7, 0, 0], [1, 2, 3]]
    assert [array.dtype.name for array in (batch.token_ids, batch.positions, batch.query_starts)] == ["int32"] * 3
    assert [array.dtype.name for array in (batch.slots, batch.output_rows)] == ["int64"] * 2
