"""Choosing the next token from logits: the state of one request, and the choice for many at once.

Steps, in the order of transformers: repetition penalty; presence and frequency penalties; logit bias; what a constraint
does not allow is forbidden; with temperature 0 the largest logit is the choice; else logits / temperature, then top-k,
top-p and min-p, each on what the one before has left, then one draw. Nothing here knows text or other requests: each
has its own random stream, so that a seed gives the same answer in any batch that computes the same logits. The
arithmetic is the kernels'.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyweight import kernels
from flyweight.engine.constraint import AllowedTokens
from flyweight.engine.logit_edits import LogitEdits
from flyweight.engine.sampling_options import SamplingOptions
from flyweight.errors import NonFiniteError, UsageError
from flyweight.formats.base import Array

__all__ = ["Sampler", "SamplingOptions", "TokenLogProbability", "choose_tokens", "kept_probabilities"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogProbability:
    """Natural log probability of a chosen token by the model's logits as they are, before penalties and filters.

    ``top`` are the most likely tokens of that place, (token, log probability), the likeliest first.
    """

    token: int
    log_probability: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """Chooses one request's tokens.

    Args:
        prompt: the request's ids, which the repetition penalty counts as said.
        stop_ids: tokens that end the answer, which ``min_tokens`` forbids at first.
        choosable: uint32 (ceil(vocab / 32),), a bit for each token that may be chosen at all; None where all may.
        bad_sequences: of tokens that the answer must not hold.
        stream: which of several answers to one prompt this is; answers of one seed differ by it.

    Attributes:
        log_probabilities: of the tokens chosen so far, where ``options.logprobs`` asks for them.
    """

    def __init__(
        self,
        options: SamplingOptions,
        prompt: Sequence[int],
        *,
        stop_ids: Iterable[int] = (),
        choosable: NDArray[np.uint32] | None = None,
        bad_sequences: Sequence[Sequence[int]] = (),
        stream: int = 0,
    ) -> None:
        self.options = options
        self.log_probabilities: list[TokenLogProbability] = []
        self._seed = secrets.randbits(63) if options.seed is None else options.seed
        self._stream = stream
        self._position = 0
        self._edits = LogitEdits(options, prompt, {*stop_ids, *options.stop_token_ids}, bad_sequences)
        self._choosable = choosable
        self._allowed: AllowedTokens | None = None
        self._allowed_from = 0

    def constrain(self, allowed: AllowedTokens) -> None:
        """Let the next choices, as many as ``allowed`` has places, be among these tokens only."""
        self._allowed, self._allowed_from = allowed, self._position

    def rule(self) -> kernels.ChoiceRule:
        """How the next token is chosen, given all that were."""
        mask, edits = self._choosable, self._edits.arrays()
        if self._allowed is not None:
            place = self._position - self._allowed_from
            if self._allowed.only_ends[place]:
                # min_tokens may forbid the ends, or another option, but nothing else is left
                mask, edits = self._allowed.masks[place], None
            else:
                mask = self._allowed.masks[place] if mask is None else self._allowed.masks[place] & mask
        return self._rule(mask, edits)

    def guess_rule(self) -> kernels.ChoiceRule:
        """How a token is guessed ahead of its turn, before it is known what a constraint will allow there."""
        return self._rule(None, self._edits.arrays())

    def _rule(self, mask: NDArray[np.uint32] | None, edits: kernels.Edits | None) -> kernels.ChoiceRule:
        options = self.options
        return kernels.ChoiceRule(
            temperature=options.temperature or 0.0,
            top_k=options.top_k or 0,
            top_p=1.0 if options.top_p is None else options.top_p,
            min_p=options.min_p or 0.0,
            seed=self._seed,
            stream=self._stream,
            position=self._position,
            edits=edits,
            mask=mask,
        )

    def random_number(self, purpose: int) -> float:
        """A number in [0, 1) from this request's stream at its present position; the draw itself is purpose 0."""
        return (self.random_word(purpose) >> 11) * 2.0**-53

    def random_word(self, purpose: int) -> int:
        """64 random bits, as ``random_number``."""
        return kernels.random_word(self._seed, self._stream, self._position, purpose)

    def push(self, token: int) -> None:
        """Count ``token`` as chosen; the next choice is made after it."""
        self._position += 1
        self._edits.push(token)

    def choose(self, logits: Array) -> int:
        """The next token by float32 logits (vocab,), which are left as they are; it is counted as chosen.

        Raises:
            NonFiniteError: when the logits hold a NaN or no finite maximum.
        """
        return choose_tokens([self], logits[None])[0]


def choose_tokens(samplers: Sequence[Sampler], logits: Array) -> list[int]:
    """One token for each sampler by its row of float32 logits (samplers, vocab), counted as chosen.

    Raises:
        NonFiniteError: when a row holds a NaN or no finite maximum; then no token of any row is counted.
    """
    rules = [sampler.rule() for sampler in samplers]
    listed = [sampler.options.logprobs for sampler in samplers if sampler.options.logprobs is not None]
    scores: kernels.LogProbabilities | None = None
    if listed:
        chosen, scores = kernels.sample_with_log_probabilities(logits, rules, min(max(listed), logits.shape[1]))
    else:
        chosen = kernels.sample(logits, rules)
    if len(chosen) and chosen.min() < 0:
        if len(rules) == 1 and (rules[0].mask is not None or rules[0].edits is not None) and _is_sound(logits[0]):
            raise UsageError(
                "no token can be chosen here: what the request's constraint or allowed_token_ids allow, bad_words, "
                "min_tokens or the model itself forbid; leave one of them out"
            )
        raise NonFiniteError(
            "the model's logits are not finite; its weights are damaged or overflow in this compute type: "
            "try compute='float32'"
        )
    tokens: list[int] = chosen.tolist()
    for row, (sampler, token) in enumerate(zip(samplers, tokens, strict=True)):
        sampler.push(token)
        if scores is not None and sampler.options.logprobs is not None:
            count = sampler.options.logprobs
            top = zip(scores.top_tokens[row, :count].tolist(), scores.top[row, :count].tolist(), strict=True)
            sampler.log_probabilities.append(
                TokenLogProbability(token=token, log_probability=float(scores.chosen[row]), top=tuple(top))
            )
    return tokens


def _is_sound(row: Array) -> bool:
    """Whether logits (vocab,) hold no NaN and a finite maximum."""
    return bool(np.isfinite(row.max()))


def kept_probabilities(logits: Array, rule: kernels.ChoiceRule) -> tuple[Array, Array]:
    """The tokens that a rule leaves to draw from, and their probabilities.

    Args:
        logits: float32 (vocab,).

    Returns:
        int32 tokens in ascending order, and float64 probabilities that sum to 1; with temperature 0 the one largest.

    Raises:
        NonFiniteError: when the logits hold a NaN or no finite maximum.
    """
    tokens, shares = kernels.kept_shares(logits, rule)
    if len(tokens) == 0:
        raise NonFiniteError("the model's logits are not finite")
    probabilities = shares.astype(np.float64)
    return tokens, probabilities / probabilities.sum()
