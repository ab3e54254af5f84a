"""Invented words and the split of every value into train, dev and golden by its hash.

Knows nothing about tasks, tokens or models. The split is a pure function of the value's text, so a name, a key or a
pair of operands that belongs to the golden split can never be drawn for training text, whatever the seed.
"""

from __future__ import annotations

import hashlib
import random
from functools import cache
from typing import Literal

Split = Literal["train", "dev", "golden"]

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "st")
_RHYMES = ("a", "e", "o", "an", "el", "ir")


def split_of(value: str) -> Split:
    """Returns the split that owns ``value``: 1/16 golden, 1/16 dev, the rest train."""
    bucket = hashlib.sha256(value.encode()).digest()[0] % 16
    return "golden" if bucket == 0 else "dev" if bucket == 1 else "train"


@cache
def words_of(split: Split) -> tuple[str, ...]:
    """Returns the invented two-syllable words that belong to ``split``, in a fixed order."""
    syllables = [onset + rhyme for onset in _ONSETS for rhyme in _RHYMES]
    return tuple(word for a in syllables for b in syllables if split_of(word := a + b) == split)


def draw_word(rng: random.Random, split: Split) -> str:
    """Draws one invented word of ``split``, in lower case."""
    return rng.choice(words_of(split))


def draw_name(rng: random.Random, split: Split) -> str:
    """Draws one invented name of ``split``, capitalised."""
    return draw_word(rng, split).capitalize()


def draw_pair(rng: random.Random, split: Split, first_digits: int, second_digits: int) -> tuple[int, int]:
    """Draws two operands with the given digit counts whose ordered pair belongs to ``split``.

    Single-digit pairs are too few to be held out, so ``dev`` and ``golden`` need two digits in one operand at least.
    """
    if first_digits == 1 and second_digits == 1 and split != "train":
        raise ValueError("pairs of two single digits are all in the train split; ask for more digits")
    while True:
        first, second = draw_number(rng, first_digits), draw_number(rng, second_digits)
        if pair_split(first, second) == split:
            return first, second


def pair_split(first: int, second: int) -> Split:
    """Returns the split that owns the ordered operand pair; all pairs of single digits are train."""
    if first < 10 and second < 10:
        return "train"
    return split_of(f"{min(first, second)}+{max(first, second)}")


def draw_number(rng: random.Random, digits: int) -> int:
    """Draws a number with exactly ``digits`` digits (1 to 9 for one digit)."""
    return rng.randrange(10 ** (digits - 1), 10**digits)
