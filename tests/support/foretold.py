"""A model whose answers can be foretold, for tests of what runs a model.

The next token is a sum over all tokens so far, each weighted by its position, that the model reads from the cache slots
of the batch: a block that holds something else, a token computed twice or a wrong position gives another answer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flyweight.runtime.batch import Batch

VOCAB = 50
END = 7


def next_token(tokens: Sequence[int]) -> int:
    return sum((place % 5 + 1) * token + 1 for place, token in enumerate(tokens)) % 47


def foretold(prompt: Sequence[int], max_tokens: int, *, end: int = END) -> list[int]:
    """The greedy answer, up to and with its end token."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        tokens.append(next_token(tokens))
        if tokens[-1] == end:
            break
    return tokens[len(prompt) :]


class Foretold:
    """``forward`` for an engine with blocks of ``block_size``; ``steps`` are the token counts of each step's rows."""

    def __init__(self, block_size: int, rule: Callable[[Sequence[int]], int] = next_token) -> None:
        self.block_size = block_size
        self.rule = rule
        self.stored: dict[int, int] = {}  # slot -> token
        self.steps: list[list[int]] = []

    def forward(self, batch: Batch) -> Any:
        if len(set(batch.slots.tolist())) != batch.num_tokens:  # no assert: helpers are not rewritten, -O drops them
            raise RuntimeError("two tokens of a step share a slot")
        self.stored.update(zip(batch.slots.tolist(), batch.token_ids.tolist(), strict=True))
        self.steps.append(np.diff(batch.query_starts).tolist())
        logits = np.zeros((len(batch.output_rows), VOCAB), np.float32)
        rows = np.searchsorted(batch.query_starts, batch.output_rows, side="right") - 1
        for place, (row, token) in enumerate(zip(rows, batch.output_rows, strict=True)):
            table = batch.block_tables[row]
            slots = [
                int(table[position // self.block_size]) * self.block_size + position % self.block_size
                for position in range(int(batch.positions[token]) + 1)
            ]
            logits[place, self.rule([self.stored[slot] for slot in slots])] = 1.0
        return logits
