"""The slow twin of sampling: the definition of every choice, to the bit. Checks nothing: the facade does.

Float32 operations are done one by one, as the kernel does them; shares are whole numbers, so their sums are exact.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from flyweight.kernels.checks import Float32
from flyweight.kernels.sampling import ChoiceRule, LogProbabilities

SHARE_UNIT = 2**34
MASK = 2**64 - 1
POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def random_word(seed: int, stream: int, position: int, purpose: int) -> int:
    counter, key = [position, purpose, 0, 0], [seed, stream]
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [
            second >> 64 ^ counter[1] ^ key[0],
            second & MASK,
            first >> 64 ^ counter[3] ^ key[1],
            first & MASK,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) & MASK, (key[1] + 0xBB67AE8584CAA73B) & MASK]
    return counter[0]


def sample(logits: Float32, rules: Sequence[ChoiceRule]) -> NDArray[np.int64]:
    return np.array([_sample_row(row, rule) for row, rule in zip(logits, rules, strict=True)], np.int64)


def sample_with_log_probabilities(
    logits: Float32, rules: Sequence[ChoiceRule], num_top: int
) -> tuple[NDArray[np.int64], LogProbabilities]:
    tokens = sample(logits, rules)
    exact = logits.astype(np.float64)
    most = exact.max(axis=1, keepdims=True)
    scores = exact - most - np.log(np.exp(exact - most).sum(axis=1, keepdims=True))
    top = np.argsort(-logits, axis=1, kind="stable")[:, :num_top].astype(np.int32)
    return tokens, LogProbabilities(
        chosen=np.take_along_axis(scores, tokens[:, None], 1)[:, 0].astype(np.float32),
        top_tokens=top,
        top=np.take_along_axis(scores, top.astype(np.int64), 1).astype(np.float32),
    )


def kept_shares(logits: Float32, rule: ChoiceRule) -> tuple[NDArray[np.int32], Float32]:
    scores = _edited(logits, rule)
    if not _is_usable(logits) or not _is_usable(scores):
        return np.empty(0, np.int32), np.empty(0, np.float32)
    if rule.temperature == 0.0:
        return np.array([scores.argmax()], np.int32), np.array([SHARE_UNIT], np.float32)
    values = shares(scores, rule.inverse_temperature)
    tokens = np.arange(len(scores))
    if 0 < rule.top_k < len(scores):
        tokens = np.flatnonzero(scores >= np.sort(scores)[-rule.top_k])
    if rule.top_p < 1.0:
        total = _total(values[tokens])
        wanted = min(max(int(np.ceil(rule.top_p * float(total))), 1), total)
        order = tokens[np.argsort(-values[tokens], kind="stable")]
        weights = values[order].astype(np.int64)
        tokens = np.sort(order[(np.cumsum(weights) - weights) < wanted])
    if rule.min_p > 0.0:
        tokens = tokens[values[tokens].astype(np.float64) >= rule.min_p * SHARE_UNIT]
    return tokens.astype(np.int32), values[tokens]


def shares(scores: Float32, inverse_temperature: float) -> Float32:
    """``e^((x - largest) * inverse_temperature)`` in units of 2^-34, rounded to whole numbers."""
    one = np.float32
    x = np.maximum((scores - scores.max()) * one(inverse_temperature), one(-60.0))
    whole = np.rint(x * one(1.44269504))
    rest = (x - whole * one(0.693359375)) + whole * one(2.12194440e-4)
    polynomial = np.full_like(x, one(POLYNOMIAL[0]))
    for coefficient in POLYNOMIAL[1:]:
        polynomial = polynomial * rest + one(coefficient)
    polynomial = polynomial * (rest * rest) + (rest + one(1.0))
    rounded: Float32 = np.rint((polynomial * np.ldexp(one(1.0), whole.astype(np.int32))) * one(SHARE_UNIT))
    return rounded


def _sample_row(logits: Float32, rule: ChoiceRule) -> int:
    tokens, values = kept_shares(logits, rule)
    if len(tokens) == 0:
        return -1
    if rule.temperature == 0.0:
        return int(tokens[0])
    random = random_word(rule.seed, rule.stream, rule.position, 0)
    target = int(Fraction(random, 2**64) * _total(values))
    return int(tokens[np.searchsorted(np.cumsum(values.astype(np.int64)), target, side="right")])


def _edited(logits: Float32, rule: ChoiceRule) -> Float32:
    scores = logits.copy()
    if rule.edits is not None:
        values, factors = scores[rule.edits.tokens], rule.edits.factors
        scores[rule.edits.tokens] = np.where(values < 0, values * factors, values / factors) + rule.edits.shifts
    if rule.mask is not None:
        allowed = np.unpackbits(rule.mask.view(np.uint8), count=len(scores), bitorder="little")
        scores[allowed == 0] = -np.inf
    return scores


def _is_usable(scores: Float32) -> bool:
    return not np.isnan(scores).any() and bool(np.isfinite(scores.max()))


def _total(values: Float32) -> int:
    return int(values.astype(np.int64).sum())
