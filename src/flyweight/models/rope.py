"""Rotary position embedding: from a RopeSpec and positions to the table of cosines and sines.

The frequency rules are those of transformers' ``modeling_rope_utils`` (linear, dynamic NTK, llama3, yarn, longrope).
This module knows no configs, heads or backends: it makes tables, others rotate.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from flyweight.models.spec import RopeKind, RopeSpec

FloatTable = np.ndarray[Any, np.dtype[np.floating[Any]]]
Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]


def inverse_frequencies(rope: RopeSpec, sequence_length: int) -> FloatTable:
    """Radians per position of each feature pair: read-only float64 (rotary_dim / 2,).

    ``sequence_length`` counts the tokens of the sequence so far, the new ones included. Only ``dynamic`` and
    ``longrope`` depend on it, and only beyond the length the model was trained for.
    """
    return _inverse_frequencies(rope, _regime(rope, sequence_length))


def attention_factor(rope: RopeSpec) -> float:
    """What cosines and sines are multiplied by: 1 except for ``yarn`` and ``longrope``.

    Source: equation 22 of arXiv 2309.00071 (yarn) and section 3.3 of arXiv 2402.13753 (longrope), with the
    overrides that transformers reads from a config.
    """
    if rope.kind not in ("yarn", "longrope"):
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.kind == "longrope":
        if rope.factor <= 1.0:
            return 1.0
        return math.sqrt(1.0 + math.log(rope.factor) / math.log(rope.original_max_positions))
    if rope.mscale and rope.mscale_all_dim:
        return _yarn_mscale(rope.factor, rope.mscale) / _yarn_mscale(rope.factor, rope.mscale_all_dim)
    return _yarn_mscale(rope.factor, 1.0)


def rope_table(rope: RopeSpec, positions: Integers, sequence_length: int | Integers) -> tuple[FloatTable, FloatTable]:
    """Cosines and sines, attention factor folded in: two float32 arrays (tokens, rotary_dim / 2).

    Args:
        positions: int (tokens,), each token's position in its own sequence.
        sequence_length: tokens in the sequence after this step; one number, or one per token (tokens,) where
            the tokens belong to several sequences.

    Feature i of a head is rotated with feature i + rotary_dim / 2.
    """
    if rope.kind in ("dynamic", "longrope"):
        lengths, of_token = np.unique(np.broadcast_to(sequence_length, positions.shape), return_inverse=True)
        rows = [inverse_frequencies(rope, int(length)) for length in lengths]
        frequencies = np.array(rows).reshape(len(rows), rope.rotary_dim // 2)[of_token]
    else:
        frequencies = _inverse_frequencies(rope, 0)[None, :]
    # The angle is rounded to float32 as in the implementations the models were trained and published with: at
    # position 8000 an exact angle would be 5e-4 radians away from what the weights know.
    angles = positions.astype(np.float32)[:, None] * frequencies.astype(np.float32)
    factor = np.float32(attention_factor(rope))
    return np.cos(angles) * factor, np.sin(angles) * factor


def _regime(rope: RopeSpec, sequence_length: int) -> int:
    """The part of the sequence length that frequencies depend on; 0 where they do not."""
    if rope.kind == "dynamic":
        return sequence_length if sequence_length > rope.max_positions else 0
    if rope.kind == "longrope":
        return int(sequence_length > rope.original_max_positions)
    return 0


@lru_cache(maxsize=256)
def _inverse_frequencies(rope: RopeSpec, regime: int) -> FloatTable:
    frequencies = _RULES[rope.kind](rope, regime)
    frequencies.flags.writeable = False
    return frequencies


def _plain(rope: RopeSpec, theta: float) -> FloatTable:
    frequencies: FloatTable = theta ** (-np.arange(0, rope.rotary_dim, 2, dtype=np.float64) / rope.rotary_dim)
    return frequencies


def _default(rope: RopeSpec, regime: int) -> FloatTable:
    return _plain(rope, rope.theta)


def _linear(rope: RopeSpec, regime: int) -> FloatTable:
    return _plain(rope, rope.theta) / rope.factor


def _dynamic(rope: RopeSpec, regime: int) -> FloatTable:
    length = max(regime, rope.max_positions)
    stretch = rope.factor * length / rope.max_positions - (rope.factor - 1.0)
    return _plain(rope, rope.theta * stretch ** (rope.rotary_dim / (rope.rotary_dim - 2)))


def _llama3(rope: RopeSpec, regime: int) -> FloatTable:
    """Long waves are slowed by ``factor``, short ones kept, those between blended by how often they turn."""
    frequencies = _plain(rope, rope.theta)
    turns: FloatTable = rope.original_max_positions * frequencies / (2.0 * math.pi)
    kept: FloatTable = np.clip(
        (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0, 1.0
    )
    return frequencies * (kept + (1.0 - kept) / rope.factor)


def _yarn(rope: RopeSpec, regime: int) -> FloatTable:
    """Section 3.2 of arXiv 2309.00071 ("NTK-by-parts")."""
    frequencies = _plain(rope, rope.theta)
    low = _pair_turning(rope, rope.beta_fast)
    high = _pair_turning(rope, rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0.0), min(high, rope.rotary_dim - 1.0)
    if low == high:
        high += 0.001
    slowed: FloatTable = np.clip((np.arange(rope.rotary_dim // 2) - low) / (high - low), 0.0, 1.0)
    return frequencies * (1.0 - slowed + slowed / rope.factor)


def _longrope(rope: RopeSpec, regime: int) -> FloatTable:
    return _plain(rope, rope.theta) / np.array(rope.long_factor if regime else rope.short_factor, np.float64)


def _pair_turning(rope: RopeSpec, rotations: float) -> float:
    """The (fractional) feature pair that turns ``rotations`` times within the original context."""
    positions_per_turn = rope.original_max_positions / (rotations * 2.0 * math.pi)
    return rope.rotary_dim * math.log(positions_per_turn) / (2.0 * math.log(rope.theta))


def _yarn_mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0


_RULES: dict[RopeKind, Callable[[RopeSpec, int], FloatTable]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
