"""From sequences to a step's batch: which cache blocks hold a sequence, where its new tokens go.

``make_batch`` knows nothing of who owns a block. ``SequencePlanner`` is the simple owner, for work that runs a few
sequences from their beginning to their end (scores, calibration); requests that come, wait and share are planned by
the engine.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol, Self

import numpy as np

from flyweight.errors import ResourceError
from flyweight.runtime.batch import Batch, IntArray
from flyweight.runtime.kv_cache import BLOCK_SIZE, KVCache


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRow:
    """One sequence's part of a step.

    Attributes:
        token_ids: the tokens to compute.
        start: position of the first of them; all earlier ones are in the cache.
        blocks: the sequence's cache blocks in order, enough for the new tokens too.
        num_outputs: how many of the tokens, counted from the last, have their logits wanted.
    """

    token_ids: Sequence[int] | IntArray
    start: int
    blocks: Sequence[int]
    num_outputs: int = 1


def make_batch(rows: Sequence[BatchRow], block_size: int) -> Batch:
    """The batch of a step that computes these rows, at least one; the cache has blocks of ``block_size`` tokens."""
    counts = np.array([len(row.token_ids) for row in rows], np.int32)
    starts = np.array([row.start for row in rows], np.int32)
    query_starts = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(counts, out=query_starts[1:])
    ends = query_starts[1:].astype(np.int64)
    block_tables = np.zeros((len(rows), max(len(row.blocks) for row in rows)), np.int32)
    for place, row in enumerate(rows):
        block_tables[place, : len(row.blocks)] = row.blocks
    of_row = np.repeat(np.arange(len(rows)), counts)
    positions = np.arange(query_starts[-1], dtype=np.int32) - (query_starts[:-1] - starts)[of_row]
    blocks = block_tables[of_row, positions // block_size].astype(np.int64)
    outputs = np.array([row.num_outputs for row in rows], np.int64)
    of_output = np.repeat(np.arange(len(rows)), outputs)
    return Batch(
        token_ids=np.fromiter(chain.from_iterable(row.token_ids for row in rows), np.int32, int(query_starts[-1])),
        positions=positions,
        query_starts=query_starts,
        context_lengths=starts + counts,
        block_tables=block_tables,
        slots=blocks * block_size + positions % block_size,
        output_rows=(ends - np.cumsum(outputs))[of_output] + np.arange(outputs.sum()),
    )


def blocks_needed(num_tokens: int, block_size: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-num_tokens // block_size)


class BlockSource(Protocol):
    """Hands out cache blocks by number."""

    @property
    def num_blocks(self) -> int: ...

    @property
    def num_free(self) -> int: ...

    def take(self, count: int) -> list[int]:
        """So many blocks, which must be free."""
        ...

    def release(self, blocks: Iterable[int]) -> None:
        """Take blocks back, given in the order of their sequence."""
        ...


class FreeBlocks:
    """All blocks of a cache that nobody else uses."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        return [self._free.pop() for _ in range(count)]

    def release(self, blocks: Iterable[int]) -> None:
        self._free.extend(reversed(list(blocks)))


@dataclass(kw_only=True, slots=True)
class CachedSequence:
    """A sequence in the cache: the blocks it owns and how many of its tokens they hold."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0


class SequencePlanner:
    """Gives sequences the blocks they need and makes their batches."""

    def __init__(self, source: BlockSource, *, block_size: int = BLOCK_SIZE) -> None:
        self.block_size = block_size
        self._source = source

    @classmethod
    def of(cls, cache: KVCache) -> Self:
        """A planner of a cache that nobody else uses."""
        return cls(FreeBlocks(cache.num_blocks), block_size=cache.block_size)

    @property
    def num_free_blocks(self) -> int:
        return self._source.num_free

    def blocks_needed(self, num_tokens: int) -> int:
        """Blocks that a sequence of so many tokens owns."""
        return blocks_needed(num_tokens, self.block_size)

    def grow(self, sequence: CachedSequence, new_length: int) -> None:
        """Give ``sequence`` the blocks that ``new_length`` tokens need.

        Raises:
            ResourceError: when the cache has too few free blocks; the sequence is then unchanged.
        """
        missing = self.blocks_needed(new_length) - len(sequence.blocks)
        if missing > self._source.num_free:
            raise ResourceError(
                f"the KV cache has {self._source.num_free} free blocks of {self.block_size} tokens and {missing} are "
                "needed; shorten the prompt or raise the cache size "
                f"(now {self._source.num_blocks * self.block_size} tokens)"
            )
        if missing > 0:
            sequence.blocks.extend(self._source.take(missing))

    def release(self, sequence: CachedSequence) -> None:
        """Take back all blocks of ``sequence``."""
        self._source.release(sequence.blocks)
        sequence.blocks.clear()
        sequence.length = 0

    def plan(
        self, sequences: Sequence[CachedSequence], new_tokens: Sequence[Sequence[int]], *, all_logits: bool = False
    ) -> Batch:
        """Append ``new_tokens[i]`` to ``sequences[i]``: allocate, advance their lengths, return the step's batch.

        With ``all_logits`` every token's logits are wanted, else each sequence's last.

        Raises:
            ResourceError: when the cache has too few free blocks.
        """
        rows = []
        for sequence, tokens in zip(sequences, new_tokens, strict=True):
            self.grow(sequence, sequence.length + len(tokens))
            rows.append(
                BatchRow(
                    token_ids=tokens,
                    start=sequence.length,
                    blocks=sequence.blocks,
                    num_outputs=len(tokens) if all_logits else 1,
                )
            )
            sequence.length += len(tokens)
        return make_batch(rows, self.block_size)
