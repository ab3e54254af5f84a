"""The paged key-value cache: arrays of fixed-size blocks, and the block lists of the sequences that own them.

Attention reads keys and values through a sequence's block table, so a sequence may lie anywhere and grow
without copying. This module stores and accounts; it does not know what attends.
"""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import numpy as np

from flyweight.errors import ResourceError
from flyweight.formats.base import Array
from flyweight.formats.plain import FLOAT_DTYPES, FloatName
from flyweight.models.spec import BlockSpec
from flyweight.runtime.batch import Batch

BLOCK_SIZE = 16


@dataclass(kw_only=True, slots=True)
class CachedSequence:
    """A sequence in the cache: the blocks it owns and how many of its tokens they hold."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0


class KVCache:
    """Keys and values of ``blocks`` of a model in ``num_blocks`` cache blocks of ``block_size`` tokens.

    ``keys[i]`` and ``values[i]`` belong to the i-th decoder block given and have shape
    (num_blocks, block_size, num_kv_heads, head_dim) in ``dtype``.
    """

    def __init__(
        self,
        blocks: SequenceOf[BlockSpec],
        *,
        num_blocks: int,
        block_size: int = BLOCK_SIZE,
        dtype: FloatName = "float32",
    ) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.dtype = dtype
        self.first_layer = blocks[0].index if blocks else 0
        shapes = [(num_blocks, block_size, b.attention.num_kv_heads, b.attention.head_dim) for b in blocks]
        self.keys: list[Array] = [np.zeros(shape, FLOAT_DTYPES[dtype]) for shape in shapes]
        self.values: list[Array] = [np.zeros(shape, FLOAT_DTYPES[dtype]) for shape in shapes]
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free_blocks(self) -> int:
        return len(self._free)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self.keys, *self.values))

    def layer(self, index: int) -> tuple[Array, Array]:
        """Keys and values of the decoder block with this index in the model."""
        return self.keys[index - self.first_layer], self.values[index - self.first_layer]

    def blocks_needed(self, num_tokens: int) -> int:
        """Blocks that a sequence of so many tokens owns."""
        return -(-num_tokens // self.block_size)

    def grow(self, sequence: CachedSequence, new_length: int) -> None:
        """Give ``sequence`` the blocks that ``new_length`` tokens need.

        Raises:
            ResourceError: when the cache has too few free blocks; the sequence is then unchanged.
        """
        missing = self.blocks_needed(new_length) - len(sequence.blocks)
        if missing > len(self._free):
            raise ResourceError(
                f"the KV cache has {len(self._free)} free blocks of {self.block_size} tokens and {missing} are needed; "
                f"shorten the prompt or raise the cache size (now {self.num_blocks * self.block_size} tokens)"
            )
        sequence.blocks.extend(self._free.pop() for _ in range(missing))

    def release(self, sequence: CachedSequence) -> None:
        """Take back all blocks of ``sequence``."""
        self._free.extend(reversed(sequence.blocks))
        sequence.blocks.clear()
        sequence.length = 0

    def plan(
        self,
        sequences: SequenceOf[CachedSequence],
        new_tokens: SequenceOf[SequenceOf[int]],
        *,
        all_logits: bool = False,
    ) -> Batch:
        """Append ``new_tokens[i]`` to ``sequences[i]``: allocate, advance their lengths, return the step's batch.

        With ``all_logits`` every token's logits are wanted, else each sequence's last.
        """
        for sequence, tokens in zip(sequences, new_tokens, strict=True):
            self.grow(sequence, sequence.length + len(tokens))
        counts = np.array([len(tokens) for tokens in new_tokens], np.int32)
        query_starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        width = max(len(sequence.blocks) for sequence in sequences)
        block_tables = np.zeros((len(sequences), width), np.int32)
        positions, slots = [], []
        for row, (sequence, tokens) in enumerate(zip(sequences, new_tokens, strict=True)):
            block_tables[row, : len(sequence.blocks)] = sequence.blocks
            where = np.arange(sequence.length, sequence.length + len(tokens))
            positions.append(where)
            slots.append(
                block_tables[row, where // self.block_size].astype(np.int64) * self.block_size + where % self.block_size
            )
            sequence.length += len(tokens)
        return Batch(
            token_ids=np.concatenate([np.asarray(tokens, np.int32) for tokens in new_tokens]),
            positions=np.concatenate(positions).astype(np.int32),
            query_starts=query_starts,
            context_lengths=np.array([sequence.length for sequence in sequences], np.int32),
            block_tables=block_tables,
            slots=np.concatenate(slots),
            output_rows=np.arange(query_starts[-1]) if all_logits else query_starts[1:].astype(np.int64) - 1,
        )
