"""A compiled grammar, and the state of one answer under it: the engine's ``TokenConstraint`` on llguidance."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import llguidance
import numpy as np

from flyweight.engine.constraint import Masks
from flyweight.errors import UsageError

LONGEST_REASON = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class GrammarBinding:
    """How a grammar stands to its model, the same for all answers under it.

    Attributes:
        num_words: of a mask: ceil(vocab / 32), by the model's vocabulary.
        num_filled: words that the matcher fills; more where the tokenizer knows more tokens than the model.
        ends: tokens that end an answer, which a grammar's text never holds.
        on_failure: is called when an answer had to be given up, so that what is cached of the grammar can be dropped.
    """

    num_words: int
    num_filled: int
    ends: frozenset[int]
    on_failure: Callable[[], None]


class CompiledGrammar:
    """Makes constraints for answers; calling it is cheap, and all of them share what the grammar's lexer has learnt.

    Args:
        matcher: in its first state; it is only copied.
    """

    def __init__(self, matcher: llguidance.LLMatcher, binding: GrammarBinding) -> None:
        self._matcher = matcher
        self._binding = binding

    def __call__(self) -> "GrammarConstraint":
        return GrammarConstraint(self._matcher.deep_copy(), self._binding)


class GrammarConstraint:
    """One answer under a grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, binding: GrammarBinding) -> None:
        self._matcher = matcher
        self._binding = binding

    def masks(self, drafts: Sequence[int]) -> Masks:
        """What is allowed now and after each guess.

        Raises:
            UsageError: when the grammar has become too complex at this place.
        """
        words = np.zeros((1 + len(drafts), self._binding.num_filled), np.uint32)
        may_end = [False] * len(words)
        num_pushed = 0
        address, size = words.ctypes.data, words.strides[0]
        for place in range(len(words)):
            self._matcher.unsafe_compute_mask_ptr(address + place * size, size)
            if self._matcher.is_error():
                self._fail()
            may_end[place] = self._matcher.is_accepting()
            if place == len(drafts):
                break
            if drafts[place] in self._binding.ends or not self._matcher.try_consume_tokens([drafts[place]]):
                break
            num_pushed += 1
        if num_pushed and not self._matcher.rollback(num_pushed):
            self._fail()
        return Masks(words=np.ascontiguousarray(words[:, : self._binding.num_words]), may_end=tuple(may_end))

    def num_allowed(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` may follow as text."""
        text = next((place for place, token in enumerate(tokens) if token in self._binding.ends), len(tokens))
        return self._matcher.validate_tokens(list(tokens[:text]))

    def push(self, token: int) -> None:
        """Count a chosen token.

        Raises:
            UsageError: when the grammar does not allow it.
        """
        if not self._matcher.consume_token(token):
            self._fail()

    @property
    def is_complete(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def _fail(self) -> None:
        self._binding.on_failure()
        raise UsageError(
            f"the grammar of this request cannot go on: {reason_of(self._matcher.get_error() or 'it has stopped')}"
        )


def reason_of(message: str) -> str:
    """The part of a message of llguidance that concerns the grammar: no state, no trace, of bounded length."""
    for mark in ("\n<state>", "\n<non-verbose/>", "<backtrace>"):
        message = message.split(mark)[0]
    # The source is repeated, often more than once, before the reason is given.
    message = " ".join(word if len(word) <= 60 else f"{word[:50]}..." for word in message.split())
    return message if len(message) <= LONGEST_REASON else f"{message[:LONGEST_REASON]}..."


def grammar_of_choices(choices: Sequence[str]) -> str:
    """A grammar in Lark's notation of which the choices are all that there is."""
    return "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
