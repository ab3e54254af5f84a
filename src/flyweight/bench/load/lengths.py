"""How long prompts and answers are: a distribution written in one word, drawn with a seed.

    256                fixed
    uniform:128-512    each length between the ends alike
    normal:256,64      mean and standard deviation
    lognormal:256,0.5  median, and the standard deviation of the logarithm

Draws are whole numbers, and never below 1.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from flyweight.errors import UsageError

Kind = Literal["fixed", "uniform", "normal", "lognormal"]
FORMS = "256, uniform:128-512, normal:256,64 or lognormal:256,0.5"
LONGEST = 10_000_000
_NUMBER = r"(\d+(?:\.\d+)?)"
_TEXT = re.compile(rf"(?:(uniform):{_NUMBER}-{_NUMBER}|(normal|lognormal):{_NUMBER},{_NUMBER}|{_NUMBER})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """``first`` and ``second`` are the length (fixed), the ends (uniform), mean and deviation (normal) or the median
    and the deviation of the logarithm (lognormal)."""

    kind: Kind
    first: float
    second: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Raises:
            UsageError: another form, or a length below 1 or beyond ten million.
        """
        match = _TEXT.fullmatch(text.replace(" ", ""))
        if match is None:
            raise UsageError(f"length {text!r} is not understood; write it like {FORMS}")
        uniform, low, high, bell, middle, deviation, fixed = match.groups()
        if uniform:
            lengths = cls(kind="uniform", first=float(low), second=float(high))
        elif bell:
            lengths = cls(
                kind="normal" if bell == "normal" else "lognormal", first=float(middle), second=float(deviation)
            )
        else:
            lengths = cls(kind="fixed", first=float(fixed))
        ends = [lengths.first, lengths.second] if uniform else [lengths.first]
        whole = lengths.kind in ("normal", "lognormal") or all(end.is_integer() for end in ends)
        if not whole or not all(1 <= end <= LONGEST for end in ends) or ends != sorted(ends):
            raise UsageError(
                f"length {text!r} is not allowed; lengths are whole, from 1 to {LONGEST:,}, such as {FORMS}"
            )
        return lengths

    def draw(self, generator: np.random.Generator) -> int:
        """One length, 1 or more."""
        if self.kind == "fixed":
            return int(self.first)
        if self.kind == "uniform":
            return int(generator.integers(int(self.first), int(self.second), endpoint=True))
        if self.kind == "normal":
            value = generator.normal(self.first, self.second)
        else:
            value = generator.lognormal(math.log(self.first), self.second)
        return max(1, min(LONGEST, round(value)))
