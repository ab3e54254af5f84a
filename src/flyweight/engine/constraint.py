"""The seam for structured output: which tokens may come next, said by a state of each answer's own.

Token ids only: what a constraint means (JSON, a pattern, a grammar) is known to whoever made it. Whatever goes wrong in
one ends its own request and no other.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flyweight.errors import FlyweightError


@dataclass(frozen=True, kw_only=True, slots=True)
class Masks:
    """What is allowed after the tokens so far, and after each guessed token that follows them.

    Attributes:
        words: uint32 (places, ceil(vocab / 32)), a bit for each token, the lowest first: 1 where it is allowed. Bits of
            tokens that end the answer do not count.
        may_end: for each place, whether the answer may end there.
    """

    words: NDArray[np.uint32]
    may_end: tuple[bool, ...]


class TokenConstraint(Protocol):
    """The state of one answer: what has been chosen, and what may follow. One thread at a time calls it.

    A method may raise anything: the request is then ended with an error.
    """

    def masks(self, drafts: Sequence[int]) -> Masks:
        """What is allowed now, and after each of ``drafts`` (guesses, which are not counted as chosen): 1 +
        len(drafts) places. What stands behind a guess that is not allowed does not matter."""
        ...

    def num_allowed(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens``, from the first, may follow one after the other. Nothing is counted as chosen."""
        ...

    def push(self, token: int) -> None:
        """Count ``token``, which was allowed, as chosen. Tokens that end the answer are not pushed."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow what has been pushed, so that the answer ends here."""
        ...


ConstraintFactory = Callable[[], TokenConstraint]


@dataclass(frozen=True, kw_only=True, slots=True)
class AllowedTokens:
    """What the sampler is given: ``masks`` uint32 (places, words) with the ends where they are allowed, and at which
    places ``only_ends`` are."""

    masks: NDArray[np.uint32]
    only_ends: tuple[bool, ...]


class AnswerConstraint:
    """One request's constraint as the engine uses it: made when it is first needed, asked no more after it has failed.

    Args:
        make: makes the constraint.
        ends: tokens that end the request; they are allowed exactly where the answer may end.
        stop_ids: the model's own ends, which are not in ``ends`` when the request ignores them. Where nothing but an
            end is possible they end it all the same.

    Attributes:
        failure: why the request must be given up, or None.
    """

    def __init__(self, make: ConstraintFactory, *, ends: frozenset[int], stop_ids: frozenset[int]) -> None:
        self.failure: FlyweightError | None = None
        self._make = make
        self._state: TokenConstraint | None = None
        # Of each token its word in a mask and its bit there: this is looked at for every token of an answer.
        self._ends = _bits(ends)
        self._last_ends = _bits(ends | stop_ids)
        self._never_text = [(word, ~bit) for word, bit in _bits(stop_ids)]

    def allowed(self, drafts: Sequence[int]) -> AllowedTokens | None:
        """What may follow, and after each guess; None when it has failed. Called by the engine's helper thread."""
        try:
            if self._state is None:
                self._state = self._make()
            masks = self._state.masks(drafts)
            return self._with_ends(masks, 1 + len(drafts))
        except Exception as error:  # noqa: BLE001 - a constraint is foreign code: whatever it raises ends its own request
            self.fail(error)
            return None

    def cut(self, tokens: Sequence[int]) -> int:
        """How many of the guessed ``tokens`` may follow."""
        if self._state is None or self.failure is not None:
            return 0
        try:
            return self._state.num_allowed(tokens)
        except Exception as error:  # noqa: BLE001 - as above
            self.fail(error)
            return 0

    def push(self, token: int) -> bool:
        """Count a token; whether the answer is complete with it."""
        if self._state is None or self.failure is not None:
            return False
        try:
            self._state.push(token)
            return self._state.is_complete
        except Exception as error:  # noqa: BLE001 - as above
            self.fail(error)
            return False

    def fail(self, error: BaseException) -> None:
        """Give the request up. What the error says is told; what kind of foreign error it was, too."""
        if isinstance(error, FlyweightError):
            self.failure = error
        else:
            self.failure = FlyweightError(f"the constraint of this request failed: {type(error).__name__}: {error}")

    def _with_ends(self, masks: Masks, places: int) -> AllowedTokens:
        words = masks.words
        if words.shape[0] != places or len(masks.may_end) != places:
            raise FlyweightError(f"a constraint gave {words.shape[0]} masks where {places} were asked for")
        num_words = words.shape[1]
        for word, others in self._never_text:
            if word < num_words:
                words[:, word] &= others
        only_ends = []
        for place, may_end in enumerate(masks.may_end):
            has_text = bool(words[place].any())
            if may_end:
                for word, bit in self._ends if has_text else self._last_ends:
                    if word < num_words:
                        words[place, word] |= bit
            elif not has_text and place == 0:
                raise FlyweightError(
                    "the constraint allows no token here and no end: its grammar leads into a dead end with this "
                    "vocabulary"
                )
            only_ends.append(may_end and not has_text)
        return AllowedTokens(masks=words, only_ends=tuple(only_ends))


def _bits(tokens: Iterable[int]) -> list[tuple[int, np.uint32]]:
    """Where tokens stand in a mask: word and bit."""
    return [(token >> 5, np.uint32(1 << (token & 31))) for token in sorted(tokens)]
