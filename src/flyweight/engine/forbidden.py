"""Which tokens an answer may not hold: words that are forbidden, and all but those that are allowed.

A word may be several tokens; then only the last of them is forbidden, where the answer ends with the others. Words are
turned into tokens as vLLM does it, with and without a space before them. It knows no logits.
"""

from collections import deque
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from flyweight.tokenizer import Tokenizer


def mask_of(tokens: Collection[int], vocab_size: int) -> NDArray[np.uint32]:
    """uint32 (ceil(vocab / 32),), a bit for each token, the lowest first: 1 for ``tokens``, which are below
    ``vocab_size``."""
    words = np.zeros((vocab_size + 31) // 32, np.uint32)
    ids = np.fromiter(tokens, np.int64, len(tokens))
    np.bitwise_or.at(words, ids >> 5, np.left_shift(np.uint32(1), (ids & 31).astype(np.uint32)))
    return words


def sequences_of(words: Sequence[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """The tokens of forbidden words: as they begin a text, and as they follow a space where that is one token for
    another (vLLM, ``SamplingParams.update_from_tokenizer``)."""
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        plain = tuple(tokenizer.encode(word, add_special_tokens=False))
        spaced = tuple(tokenizer.encode(" " + word.lstrip(), add_special_tokens=False))
        if plain:
            found[plain] = None
        if spaced and plain and spaced[0] != plain[0] and len(spaced) == len(plain):
            found[spaced] = None
    return tuple(found)


class ForbiddenSequences:
    """Watches one answer.

    Attributes:
        now: tokens that would complete a forbidden sequence.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self._always = frozenset(one[0] for one in sequences if len(one) == 1)
        self._longer: dict[int, list[tuple[int, ...]]] = {}  # by the token before the last
        for one in sequences:
            if len(one) > 1:
                self._longer.setdefault(one[-2], []).append(tuple(one))
        self._tail: deque[int] = deque(maxlen=max((len(one) for one in sequences), default=1))
        self.now: frozenset[int] = self._always

    def push(self, token: int) -> frozenset[int]:
        """Count a chosen token; tokens that have become forbidden, or are no longer."""
        if not self._longer:
            return frozenset()
        self._tail.append(token)
        tail = tuple(self._tail)
        completing = [one for one in self._longer.get(token, ()) if tail[-len(one) + 1 :] == one[:-1]]
        before, self.now = self.now, self._always | {one[-1] for one in completing}
        return before ^ self.now
