"""Calibration sequences of equal length in pieces that run at once, each with its batch and a cache it may reuse.

The pieces depend on the sequences' shape alone, so what is computed does not depend on how much memory there is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from flyweight.formats.base import Array
from flyweight.models.spec import BlockSpec, ModelSpec
from flyweight.runtime.batch import Batch
from flyweight.runtime.kv_cache import BLOCK_SIZE, KVCache
from flyweight.runtime.sequences import CachedSequence, SequencePlanner

PIECE_VALUES = 1 << 22  # of the widest activation in a piece
FEWEST_TOKENS_AT_ONCE, MOST_TOKENS_AT_ONCE = 512, 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Rows ``start`` to ``stop`` of the calibration tokens, whole sequences, and the batch that runs them."""

    start: int
    stop: int
    batch: Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """``count`` sequences of ``length`` tokens, for a model whose widest activation has ``widest`` features."""

    count: int
    length: int
    widest: int

    @classmethod
    def of(cls, tokens: Array, spec: ModelSpec) -> Self:
        """The sequences of a matrix of token ids (count, length)."""
        count, length = tokens.shape
        widest = max(group.out_features for block in spec.blocks for group in block.groups)
        return cls(count=count, length=length, widest=widest)

    @property
    def tokens(self) -> int:
        return self.count * self.length

    @property
    def sequences_at_once(self) -> int:
        tokens = min(max(PIECE_VALUES // self.widest, FEWEST_TOKENS_AT_ONCE), MOST_TOKENS_AT_ONCE)
        return min(self.count, max(1, tokens // self.length))

    @property
    def tokens_at_once(self) -> int:
        return self.sequences_at_once * self.length

    def cache(self, block: BlockSpec) -> KVCache:
        """A cache of one layer that holds one piece."""
        num_blocks = self.sequences_at_once * -(-self.length // BLOCK_SIZE)
        return KVCache([block], num_blocks=num_blocks, dtype="float32")

    def pieces(self, cache: KVCache) -> Iterator[Piece]:
        """All pieces in order. Each overwrites the cache of the one before, and reads nothing it has not written."""
        made: dict[int, Batch] = {}
        placeholder = [0] * self.length
        for first in range(0, self.count, self.sequences_at_once):
            count = min(self.sequences_at_once, self.count - first)
            if count not in made:
                made[count] = SequencePlanner.of(cache).plan(
                    [CachedSequence() for _ in range(count)], [placeholder] * count
                )
            yield Piece(start=first * self.length, stop=(first + count) * self.length, batch=made[count])
