"""A deterministic stand-in for a language model: logits are a fixed random function of the last two tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


class FakeModel:
    """``score`` as a runtime model has it; ``noise`` disturbs the logits, ``uniform`` makes them all equal."""

    def __init__(
        self, vocab_size: int = 37, *, noise: float = 0.0, uniform: bool = False, split: int | None = None
    ) -> None:
        generator = np.random.default_rng(7)
        self.vocab_size = vocab_size
        self.first = generator.normal(0, 2, (vocab_size, vocab_size)).astype(np.float32)
        self.second = generator.normal(0, 1, (vocab_size, vocab_size)).astype(np.float32)
        self.first += noise * np.random.default_rng(8).normal(0, 1, self.first.shape).astype(np.float32)
        if uniform:
            self.first[:], self.second[:] = 0, 0
        self.split = split
        self.num_scored = 0
        self.largest_chunk = 0

    def logits(self, token_ids: Sequence[int]) -> Any:
        """float32 (tokens, vocab): the prediction after each token."""
        last = np.asarray(token_ids)
        before = np.concatenate([[0], last[:-1]])
        return self.first[last] + self.second[before] * (np.arange(len(last)) > 0)[:, None].astype(np.float32)

    def score(self, sequences: Sequence[Sequence[int]], *, chunk_tokens: int) -> Iterator[tuple[int, int, Any]]:
        for index, token_ids in enumerate(sequences):
            logits = self.logits(token_ids)
            self.num_scored += len(logits)
            step = self.split or chunk_tokens
            for start in range(0, len(logits), step):
                self.largest_chunk = max(self.largest_chunk, len(logits[start : start + step]))
                yield index, start, logits[start : start + step]
