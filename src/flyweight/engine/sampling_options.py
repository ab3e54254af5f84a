"""The options of one request: how its answer is chosen and when it ends, each with its range.

It knows no logits and no model beyond its generation_config.json.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from flyweight.errors import CheckpointError, UsageError

MAX_STOP_STRINGS = 16
MAX_STOP_TOKENS = 64
MAX_BIASES = 1024
MAX_BAD_WORDS = 64
MAX_ALLOWED_TOKENS = 8192


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

    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token and a number from -100 to 100 that is added to its logit after the penalties."""

    seed: int | None = None
    """0 to 2^63-1: the same seed gives the same answer; without one every answer differs."""

    stop: tuple[str, ...] = ()
    """Strings that end the answer; they are not shown. At most 16."""

    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer, beside the model's own; ignore_eos does not concern them. At most 64."""

    max_tokens: int = 256
    """At least 1: the answer ends after so many tokens, or where the context is full."""

    min_tokens: int = 0
    """0 or more, at most max_tokens: no token that ends the answer is chosen before; stop strings may end it."""

    allowed_token_ids: tuple[int, ...] = ()
    """Only these tokens are chosen, ends of the answer among them only where they are named; none means all. At most
    8192."""

    bad_words: tuple[str, ...] = ()
    """Texts that the answer does not come to hold: the token that would complete one is forbidden. At most 64."""

    include_stop_str_in_output: bool = False
    """Show the stop string that ended the answer, or the text of the stop token."""

    skip_special_tokens: bool = True
    """Leave special tokens out of the text; the one that ends an answer is never in it unless it is asked for."""

    ignore_eos: bool = False
    """Go on after an end-of-text token, as benchmarks want."""

    logprobs: int | None = None
    """0 to 20: report the log probability of every chosen token and of so many of the most likely."""

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
        _check_integer("min_tokens", self.min_tokens, 0, self.max_tokens, f"0 to max_tokens={self.max_tokens}")
        _check_integer("logprobs", self.logprobs, 0, 20, "0 to 20 most likely tokens")
        _check_boolean("ignore_eos", self.ignore_eos)
        _check_boolean("include_stop_str_in_output", self.include_stop_str_in_output)
        _check_boolean("skip_special_tokens", self.skip_special_tokens)
        _check_count("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKENS)
        for token in self.stop_token_ids:
            _check_integer("stop_token_ids", token, 0, 2**31 - 1, "token ids from 0 on")
        _check_count("logit_bias", self.logit_bias, MAX_BIASES)
        for token, bias in self.logit_bias:
            _check_integer("logit_bias token", token, 0, 2**31 - 1, "a token id from 0 on")
            _check_range(f"logit_bias of token {token}", bias, -100.0, 100.0)
        if len({token for token, _ in self.logit_bias}) < len(self.logit_bias):
            raise UsageError("logit_bias names a token twice; give one number for each")
        _check_count("allowed_token_ids", self.allowed_token_ids, MAX_ALLOWED_TOKENS)
        for token in self.allowed_token_ids:
            _check_integer("allowed_token_ids", token, 0, 2**31 - 1, "token ids from 0 on")
        _check_count("bad_words", self.bad_words, MAX_BAD_WORDS)
        if isinstance(self.bad_words, str) or not all(
            isinstance(text, str) and text.strip() for text in self.bad_words
        ):
            raise UsageError(f"bad_words={self.bad_words!r} is not allowed; give texts that are not only spaces")
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

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise UsageError where an option names a token that a model of so many does not have."""
        for name, tokens in (
            ("stop_token_ids", self.stop_token_ids),
            ("allowed_token_ids", self.allowed_token_ids),
            ("logit_bias", [token for token, _ in self.logit_bias]),
        ):
            for token in tokens:
                if token >= vocab_size:
                    raise UsageError(f"{name} names token {token}; the model's ids go from 0 to {vocab_size - 1}")

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


def _check_boolean(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"{name}={value!r} is not a boolean; choose true or false")


def _check_count(name: str, values: Collection[object], most: int) -> None:
    if len(values) > most:
        raise UsageError(f"{name} has {len(values)} entries; give at most {most}")
