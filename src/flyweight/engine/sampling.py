"""Choosing the next token from logits: the options of one request, and the state that follows them.

Steps, in the order of transformers: repetition penalty; presence and frequency penalties; with temperature 0 the
largest logit is the choice; else logits / temperature, then top-k, top-p and min-p, each on what the one before has
left, then one draw. Nothing here knows text or other requests: each has its own generator, so that a seed gives
the same answer in any batch that computes the same logits.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from flyweight.errors import CheckpointError, FlyweightError, UsageError
from flyweight.formats.base import Array

MAX_STOP_STRINGS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """How an answer is chosen and when it ends. Fields left None take what the model's generation_config.json says.

    Raises:
        UsageError: when a value is outside its range.
    """

    temperature: float | None = None
    """0 to 2; 0 always takes the most likely token. Without generation_config.json: 0."""

    top_k: int | None = None
    """Draw from the k most likely tokens only; 0 means from all."""

    top_p: float | None = None
    """Above 0 to 1: draw from the fewest tokens that together have at least this probability; 1 means from all."""

    min_p: float | None = None
    """0 to 1: leave out tokens less likely than this share of the most likely one's probability."""

    repetition_penalty: float | None = None
    """Above 0 to 10: divides (negative: multiplies) the logits of tokens in the prompt or answer; 1 means none."""

    presence_penalty: float = 0.0
    """-2 to 2: subtracted from the logits of tokens that the answer holds already."""

    frequency_penalty: float = 0.0
    """-2 to 2: subtracted from a token's logit once for each time that the answer holds it."""

    seed: int | None = None
    """0 to 2^63-1: the same seed gives the same answer; without one every answer differs."""

    stop: tuple[str, ...] = ()
    """Strings that end the answer; they are not shown. At most 16."""

    max_tokens: int = 256
    """At least 1: the answer ends after so many tokens, or where the context is full."""

    ignore_eos: bool = False
    """Go on after an end-of-text token, as benchmarks want."""

    def __post_init__(self) -> None:
        _check_range("temperature", self.temperature, 0.0, 2.0)
        _check_range("top_p", self.top_p, 0.0, 1.0, is_open=True)
        _check_range("min_p", self.min_p, 0.0, 1.0)
        _check_range("repetition_penalty", self.repetition_penalty, 0.0, 10.0, is_open=True)
        _check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_integer("top_k", self.top_k, 0, 2**31 - 1, "a number of tokens, or 0 for all")
        _check_integer("seed", self.seed, 0, 2**63 - 1, "0 to 2^63-1")
        _check_integer("max_tokens", self.max_tokens, 1, 2**31 - 1, "1 or more")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise UsageError(f"stop={self.stop!r} is not allowed; give non-empty strings")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise UsageError(f"{len(self.stop)} stop strings are too many; give at most {MAX_STOP_STRINGS}")

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> Self:
        """What a model's generation_config.json asks for; greedy unless it says ``do_sample``.

        Read are do_sample, temperature, top_k, top_p, min_p and repetition_penalty.

        Raises:
            CheckpointError: when a value there is out of range.
        """
        given = {
            name: config[name]
            for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
            if config.get(name) is not None
        }
        given.setdefault("temperature", 1.0)
        if not config.get("do_sample"):
            given["temperature"] = 0.0
        try:
            return cls(**given)
        except UsageError as error:
            raise CheckpointError(f"generation_config.json: {error}") from error

    def with_defaults(self, defaults: "SamplingOptions") -> "SamplingOptions":
        """These options, with fields left None taken from ``defaults``."""
        return replace(
            self,
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_k=defaults.top_k if self.top_k is None else self.top_k,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            min_p=defaults.min_p if self.min_p is None else self.min_p,
            repetition_penalty=(
                defaults.repetition_penalty if self.repetition_penalty is None else self.repetition_penalty
            ),
        )


class Sampler:
    """Chooses one request's tokens. ``prompt`` are its ids, which the repetition penalty counts as said."""

    def __init__(self, options: SamplingOptions, prompt: Sequence[int]) -> None:
        self._temperature = options.temperature or 0.0
        self._top_k = options.top_k or 0
        self._top_p = 1.0 if options.top_p is None else options.top_p
        self._min_p = options.min_p or 0.0
        self._repetition = 1.0 if options.repetition_penalty is None else options.repetition_penalty
        self._presence = options.presence_penalty
        self._frequency = options.frequency_penalty
        self._said = set(prompt)
        self._counts: dict[int, int] = {}
        self._generator = np.random.default_rng(options.seed)

    def choose(self, logits: Array) -> int:
        """The next token by float32 logits (vocab,), which are left as they are; it is counted as said.

        Raises:
            FlyweightError: when the logits hold no finite maximum.
        """
        scores = self._penalized(logits)
        best = int(scores.argmax())
        if not math.isfinite(scores[best]):
            raise FlyweightError(
                "the model's logits are not finite; its weights are damaged or overflow in this compute type: "
                "try compute='float32'"
            )
        token = best if self._temperature == 0.0 else self._draw(scores)
        self._said.add(token)
        self._counts[token] = self._counts.get(token, 0) + 1
        return token

    def _penalized(self, logits: Array) -> Array:
        """Logits after the penalties; a copy where there are any."""
        scores = logits
        if self._repetition != 1.0:
            scores = logits.copy()
            said = np.fromiter(self._said, np.int64, len(self._said))
            values = scores[said]
            scores[said] = np.where(values < 0, values * self._repetition, values / self._repetition)
        if self._counts and (self._presence or self._frequency):
            scores = logits.copy() if scores is logits else scores
            said = np.fromiter(self._counts.keys(), np.int64, len(self._counts))
            times = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            scores[said] -= self._presence + self._frequency * times
        return scores

    def _draw(self, scores: Array) -> int:
        tokens, shares = kept_probabilities(
            scores, temperature=self._temperature, top_k=self._top_k, top_p=self._top_p, min_p=self._min_p
        )
        cumulative = np.cumsum(shares)
        place = np.searchsorted(cumulative, self._generator.random() * cumulative[-1], side="right")
        return int(tokens[min(int(place), len(tokens) - 1)])


def kept_probabilities(
    scores: Array, *, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[Array, Array]:
    """The tokens that temperature, top-k, top-p and min-p leave to draw from, and their probabilities.

    Args:
        scores: float (vocab,), penalties applied.

    Returns:
        int64 tokens in ascending order, and float64 probabilities that sum to 1. At least one token is left; a tie
        at the edge of top-k keeps all that are tied.
    """
    scaled = scores.astype(np.float64) / temperature
    tokens = np.arange(len(scaled))
    if 0 < top_k < len(scaled):
        edge = np.partition(scaled, len(scaled) - top_k)[len(scaled) - top_k]
        tokens = tokens[scaled >= edge]
    shares = np.exp(scaled[tokens] - scaled.max())
    shares /= shares.sum()
    if top_p < 1.0:
        order = np.argsort(-shares, kind="stable")
        before = np.cumsum(shares[order]) - shares[order]  # probability of all that are likelier
        kept = np.sort(order[before < top_p])
        tokens, shares = tokens[kept], shares[kept]
    if min_p > 0.0:
        kept = np.flatnonzero(shares >= min_p * shares.max())
        tokens, shares = tokens[kept], shares[kept]
    return tokens, shares / shares.sum()


def _check_range(name: str, value: float | None, low: float, high: float, *, is_open: bool = False) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(f"{name}={value!r} is not a finite number; choose {_range(low, high, is_open)}")
    if not low <= value <= high or (is_open and value == low):
        raise UsageError(f"{name}={value} is out of range; choose {_range(low, high, is_open)}")


def _range(low: float, high: float, is_open: bool) -> str:
    return f"{'above ' if is_open else ''}{low:g} to {high:g}"


def _check_integer(name: str, value: int | None, low: int, high: int, allowed: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{name}={value!r} is not allowed; choose {allowed}")
