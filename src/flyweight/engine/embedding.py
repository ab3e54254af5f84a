"""Texts as vectors: the hidden states that the head reads, pooled over a sequence.

It makes sense for models that were trained for it; which those are, others decide. It runs between the steps of an
engine, over the same cache, and gives every block back before it returns.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from flyweight.engine.language_model import LanguageModel
from flyweight.engine.options import has_moving_rope
from flyweight.errors import UsageError
from flyweight.formats.base import Array
from flyweight.runtime.sequences import CachedSequence, SequencePlanner

Pooling = Literal["mean", "last"]
CHUNK_TOKENS = 512


class Embedder:
    """Makes vectors of token ids.

    Args:
        pooling: ``mean`` over all tokens, or the state of the ``last`` one.
    """

    def __init__(self, model: LanguageModel, pooling: Pooling) -> None:
        if pooling not in ("mean", "last"):
            raise UsageError(f"pooling={pooling!r} is unknown; choose mean or last")
        self._model = model
        self._pooling = pooling

    @property
    def size(self) -> int:
        """Numbers of a vector."""
        return self._model.spec.final_norm.size

    def embed(self, ids: Sequence[int]) -> Array:
        """The vector of a sequence, float32 (size,), of length 1. Called where the engine may be used.

        Raises:
            UsageError: when the sequence is empty or longer than the context.
            ResourceError: when running requests leave too few cache blocks.
        """
        if not 0 < len(ids) <= self._model.context_length:
            raise UsageError(f"a text has {len(ids)} tokens; choose 1 to {self._model.context_length}")
        planner = SequencePlanner(self._model.engine.pool)
        sequence = CachedSequence()
        total = np.zeros(self.size, np.float64)
        try:
            planner.grow(sequence, len(ids))  # all or nothing, before anything is computed
            for start in range(0, len(ids), self._chunk(len(ids))):
                batch = planner.plan([sequence], [ids[start : start + self._chunk(len(ids))]], all_logits=True)
                states = self._model.states(batch)
                total = states[-1].astype(np.float64) if self._pooling == "last" else total + states.sum(axis=0)
        finally:
            planner.release(sequence)
        vector: Array = (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)
        return vector

    def _chunk(self, length: int) -> int:
        return length if has_moving_rope(self._model.spec) else CHUNK_TOKENS
