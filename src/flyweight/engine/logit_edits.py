"""Which single logits of a request are changed before a choice: penalties on what was said, biases, forbidden tokens.

A choice costs what has changed since the last one, not the length of the context. It knows no logits.
"""

from collections.abc import Collection, Sequence

import numpy as np

from flyweight import kernels
from flyweight.engine.forbidden import ForbiddenSequences
from flyweight.engine.sampling_options import SamplingOptions


class LogitEdits:
    """The edits of one request, kept up to date token by token.

    Args:
        prompt: ids that the repetition penalty counts as said.
        ends: tokens that ``min_tokens`` forbids until so many are chosen.
        bad_sequences: of tokens that the answer must not hold.
    """

    def __init__(
        self,
        options: SamplingOptions,
        prompt: Sequence[int],
        ends: Collection[int],
        bad_sequences: Sequence[Sequence[int]] = (),
    ) -> None:
        self._repetition = 1.0 if options.repetition_penalty is None else options.repetition_penalty
        self._presence, self._frequency = options.presence_penalty, options.frequency_penalty
        self._bias = dict(options.logit_bias)
        self._counts: dict[int, int] = {}
        self._num_chosen = 0
        self._min_tokens = options.min_tokens
        self._forbidden = set(ends) if options.min_tokens else set()
        self._bad = ForbiddenSequences(bad_sequences)
        self._places: dict[int, int] = {}
        self._tokens = np.empty(64, np.int32)
        self._factors = np.empty(64, np.float32)
        self._shifts = np.empty(64, np.float32)
        for token in [*self._bias, *self._forbidden, *self._bad.now]:
            self._set(token)
        if self._repetition != 1.0:
            for token in prompt:
                self._set(token, said=True)

    def push(self, token: int) -> None:
        """Count a chosen token."""
        self._num_chosen += 1
        if self._forbidden and self._num_chosen >= self._min_tokens:
            freed, self._forbidden = self._forbidden, set()
            for one in freed:
                self._set(one)
        for one in self._bad.push(token):
            self._set(one)
        if self._presence or self._frequency:
            self._counts[token] = self._counts.get(token, 0) + 1
            self._set(token)
        if self._repetition != 1.0:
            self._set(token, said=True)

    def arrays(self) -> kernels.Edits | None:
        """The edits of the next choice; valid until the next ``push``."""
        count = len(self._places)
        if count == 0:
            return None
        return kernels.Edits(tokens=self._tokens[:count], factors=self._factors[:count], shifts=self._shifts[:count])

    def _set(self, token: int, *, said: bool = False) -> None:
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = len(self._places)
            if place == len(self._tokens):
                self._tokens = np.concatenate([self._tokens, np.empty_like(self._tokens)])
                self._factors = np.concatenate([self._factors, np.empty_like(self._factors)])
                self._shifts = np.concatenate([self._shifts, np.empty_like(self._shifts)])
            self._tokens[place], self._factors[place] = token, 1.0
        if said:
            self._factors[place] = self._repetition
        self._shifts[place] = -np.inf if token in self._forbidden or token in self._bad.now else self._shift(token)

    def _shift(self, token: int) -> float:
        times = self._counts.get(token, 0)
        penalty = self._presence + self._frequency * times if times else 0.0
        return self._bias.get(token, 0.0) - penalty
