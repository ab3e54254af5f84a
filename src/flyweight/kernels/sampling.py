"""Choosing tokens from rows of logits: edits, masks, temperature, top-k, top-p, min-p and one draw, all in one call.

Each row is chosen by its own rule and its own random stream, so what stands beside it changes nothing. It knows neither
requests nor what the tokens mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.checks import FLOAT32, Float32, check_array

LOWEST_TEMPERATURE = 1e-6
MOST_LISTED = 64
NO_TOKENS = np.empty(0, np.int32)
NO_FLOATS = np.empty(0, np.float32)
NO_MASKS = np.empty((0, 0), np.uint32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Edits:
    """Changes to single logits: ``x`` becomes ``x / factor`` (``x * factor`` where negative) ``+ shift``.

    tokens int32 (n,), each at most once; factors float32 (n,), positive; shifts float32 (n,), finite or minus infinity,
    which forbids the token.
    """

    tokens: NDArray[np.int32]
    factors: Float32
    shifts: Float32


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceRule:
    """How one row's token is chosen.

    The order: edits; tokens that ``mask`` leaves out are forbidden; with temperature 0 the largest logit (the first of
    those that tie); else shares ``e^((x - largest) / temperature)`` as whole multiples of 2^-34, which are 0 below
    2^-35; ``top_k`` keeps the k largest logits and all that tie with the last (0: all); ``top_p`` keeps the fewest of
    the largest shares that reach this part of what top_k has left, the first tokens of those that tie; ``min_p`` keeps
    shares of at least this part of the largest. Then the draw: the first token, in order, at which the running sum of
    shares exceeds ``total * random_word(seed, stream, position, 0) / 2^64``. A temperature below 1e-6 acts as 1e-6.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stream: int = 0
    position: int = 0
    edits: Edits | None = None
    mask: NDArray[np.uint32] | None = None
    """uint32 (ceil(vocab / 32),), a bit for each token, the lowest first: 1 where it is allowed."""

    @property
    def inverse_temperature(self) -> float:
        """What logits are multiplied by, in float32; 0 for a greedy choice."""
        return 0.0 if self.temperature == 0.0 else float(np.float32(1.0 / max(self.temperature, LOWEST_TEMPERATURE)))


@dataclass(frozen=True, kw_only=True, slots=True)
class LogProbabilities:
    """Natural logarithms of probabilities, by the logits as they were given (temperature 1, no edits, no filters).

    chosen float32 (rows,); top_tokens int32 (rows, n) and top float32 (rows, n), the most likely first, ties by token.
    Shares below 2^-35 of the largest do not count in the sum: an error of at most 1e-5.
    """

    chosen: Float32
    top_tokens: NDArray[np.int32]
    top: Float32


def random_word(seed: int, stream: int, position: int, purpose: int) -> int:
    """64 random bits that depend on these four numbers (0 to 2^64-1 each) alone.

    The first word of Philox 4x64 with 10 rounds (Salmon et al. 2011), key (seed, stream), counter (position, purpose).
    """
    return _native.random_word(seed, stream, position, purpose)


def sample(logits: Float32, rules: Sequence[ChoiceRule]) -> NDArray[np.int64]:
    """One token for each row of ``logits`` float32 (rows, vocab): int64 (rows,), -1 for a row without a finite maximum
    (also where its mask allows none of the finite ones) or with a NaN. The logits are left as they are.

    Raises:
        KernelError: a wrong dtype, shape or layout, or an edit of a token outside the vocabulary.
    """
    tokens = np.empty(len(rules), np.int64)
    _native.sample(logits, *_packed(logits, rules), tokens, None, None, None, None, None, None)
    return tokens


def sample_with_log_probabilities(
    logits: Float32, rules: Sequence[ChoiceRule], num_top: int
) -> tuple[NDArray[np.int64], LogProbabilities]:
    """As ``sample``, with the log probability of each chosen token and of the ``num_top`` (0 to 64) most likely."""
    packed = _packed(logits, rules)
    rows, vocab = logits.shape
    if not 0 <= num_top <= min(MOST_LISTED, vocab):
        raise KernelError(f"num_top={num_top} is not possible; choose 0 to {min(MOST_LISTED, vocab)}")
    tokens, chosen = np.empty(rows, np.int64), np.full(rows, np.nan, np.float32)
    top_tokens, top = np.empty((rows, num_top), np.int32), np.empty((rows, num_top), np.float32)
    _native.sample(logits, *packed, tokens, chosen, top_tokens, top, None, None, None)
    return tokens, LogProbabilities(chosen=chosen, top_tokens=top_tokens, top=top)


def kept_shares(logits: Float32, rule: ChoiceRule) -> tuple[NDArray[np.int32], Float32]:
    """What the filters of ``rule`` leave of one row (vocab,): ascending tokens, and their shares as whole numbers.

    For a greedy rule: the one largest, with share 2^34. Both empty for a row without a finite maximum or with a NaN.
    """
    check_array("logits", logits, FLOAT32, (None,))
    row, vocab = logits[None], len(logits)
    packed = _packed(row, [rule])
    token, count = np.empty(1, np.int64), np.zeros(1, np.int64)
    tokens, shares = np.empty((1, vocab), np.int32), np.empty((1, vocab), np.float32)
    _native.sample(row, *packed, token, None, None, None, count, tokens, shares)
    if token[0] < 0:
        return NO_TOKENS, NO_FLOATS
    if rule.temperature == 0.0:
        return token.astype(np.int32), np.array([2.0**34], np.float32)
    return tokens[0, : count[0]].copy(), shares[0, : count[0]].copy()


def _packed(
    logits: Float32, rules: Sequence[ChoiceRule]
) -> tuple[
    NDArray[np.float64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int32],
    Float32,
    Float32,
    NDArray[np.uint32],
    NDArray[np.int64],
]:
    """The rules as the arrays that cross the border."""
    check_array("logits", logits, FLOAT32, (len(rules), None))
    vocab = logits.shape[1]
    if vocab == 0:
        raise KernelError("logits have no columns; a vocabulary has at least one token")
    numbers = np.array([(rule.inverse_temperature, rule.top_p, rule.min_p) for rule in rules], np.float64)
    integers = np.array([(rule.top_k, rule.seed, rule.stream, rule.position) for rule in rules], np.int64)
    masks = _masks(rules, vocab)
    starts = np.zeros(len(rules) + 1, np.int64)
    edits = [rule.edits for rule in rules if rule.edits is not None]
    if not edits:
        return numbers, integers, starts, NO_TOKENS, NO_FLOATS, NO_FLOATS, *masks
    for one in edits:
        check_array("edits.tokens", one.tokens, np.dtype(np.int32), (None,))
        check_array("edits.factors", one.factors, FLOAT32, one.tokens.shape)
        check_array("edits.shifts", one.shifts, FLOAT32, one.tokens.shape)
        if len(one.tokens) and not (one.tokens.min() >= 0 and one.tokens.max() < vocab):
            raise KernelError(
                f"edits name tokens from {one.tokens.min()} to {one.tokens.max()}; the vocabulary goes from 0 to "
                f"{vocab - 1}"
            )
    starts[1:] = np.cumsum([0 if rule.edits is None else len(rule.edits.tokens) for rule in rules])
    return (
        numbers,
        integers,
        starts,
        np.concatenate([one.tokens for one in edits]),
        np.concatenate([one.factors for one in edits]),
        np.concatenate([one.shifts for one in edits]),
        *masks,
    )


def _masks(rules: Sequence[ChoiceRule], vocab: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The masks below each other, and each rule's row among them, -1 where it has none."""
    masks = [rule.mask for rule in rules if rule.mask is not None]
    rows = np.full(len(rules), -1, np.int64)
    if not masks:
        return NO_MASKS, rows
    for one in masks:
        check_array("mask", one, np.dtype(np.uint32), ((vocab + 31) // 32,))
    rows[[place for place, rule in enumerate(rules) if rule.mask is not None]] = np.arange(len(masks))
    return np.stack(masks), rows
