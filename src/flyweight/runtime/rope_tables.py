"""Cosines and sines kept from step to step: a step only says which row of a table each of its tokens needs.

What the angles are, ``models/rope.py`` says. It knows no cache and no backend.
"""

import numpy as np

from flyweight.kernels import RopeRows
from flyweight.models.rope import rope_table
from flyweight.models.spec import RopeSpec
from flyweight.runtime.batch import Batch

SMALLEST = 256  # positions of a first table


class RopeTables:
    """The tables of one rotation. A table grows to twice its size when a position is beyond it.

    Where frequencies depend on the length of the sequence: ``longrope`` has one set of them up to the length that the
    model was trained for and one beyond, so two tables; beyond that length ``dynamic`` has other frequencies at every
    length, and its rows are made for each step.
    """

    def __init__(self, rope: RopeSpec) -> None:
        self._rope = rope
        self._tables: dict[bool, tuple[np.ndarray, np.ndarray]] = {}
        self._size = 0

    def rows(self, batch: Batch) -> RopeRows:
        """The rotations of the batch's tokens."""
        beyond = self._beyond(batch)
        if beyond is not None and beyond.any():
            if self._rope.kind == "dynamic" or not beyond.all():
                return self._made_for(batch)
            return self._kept(batch, beyond=True)
        return self._kept(batch, beyond=False)

    def _beyond(self, batch: Batch) -> np.ndarray | None:
        """For each sequence, whether it is longer than the length that its frequencies hold for; None: all lengths."""
        match self._rope.kind:
            case "dynamic":
                return batch.context_lengths > self._rope.max_positions
            case "longrope":
                return batch.context_lengths > self._rope.original_max_positions
        return None

    def _kept(self, batch: Batch, *, beyond: bool) -> RopeRows:
        last = int(batch.positions.max(initial=0))
        cosine, sine = self._tables.get(beyond, (_EMPTY, _EMPTY))
        if last >= len(cosine):
            size = max(SMALLEST, 2 * len(cosine), last + 1)
            length = np.iinfo(np.int32).max if beyond else 0  # any length on that side
            cosine, sine = self._tables[beyond] = rope_table(self._rope, np.arange(size), length)
        return RopeRows(cosine=cosine, sine=sine, rows=batch.positions)

    def _made_for(self, batch: Batch) -> RopeRows:
        lengths = np.repeat(batch.context_lengths, np.diff(batch.query_starts))
        cosine, sine = rope_table(self._rope, batch.positions, lengths)
        return RopeRows(cosine=cosine, sine=sine, rows=np.arange(len(batch.positions), dtype=np.int32))


_EMPTY = np.zeros((0, 0), np.float32)
