"""Lossless rules for guesses that were drawn from distributions (Leviathan et al. 2023, Chen et al. 2023).

A guess x drawn with probability q(x) where the model's is p(x) is accepted with min(1, p(x) / q(x)); where it is not,
the token is drawn from max(p - q, 0), scaled to sum to 1. What comes out is distributed by p exactly. Both p and q are
what is left after penalties, temperature, top-k, top-p and min-p. A guess that could not have been another has q = 1,
and the rule is then the same as drawing from p and keeping the guess where it is what was drawn: that is how the
engine treats such guesses, because the answer is then the very one of plain decoding.
"""

from collections.abc import Mapping

import numpy as np

from flyweight.engine.proposer import Draft, accept_what_would_be_chosen
from flyweight.engine.sampling import Sampler, kept_probabilities
from flyweight.formats.base import Array

# Purposes of random numbers at one position; the plain draw is purpose 0.
ACCEPT, RESAMPLE, GUESS = 1, 2, 3


def acceptance_probability(p: float, q: float) -> float:
    """How likely a guess is kept whose token has probability p by the model and had q > 0 by the one who guessed."""
    return min(1.0, p / q)


def residual(p: Array, q: Array) -> Array:
    """What a refused guess's place is drawn from: max(p - q, 0), scaled to sum to 1.

    Args:
        p, q: float64 (tokens,), probabilities of the same tokens.

    Where rounding has left nothing (p and q are equal), p itself.
    """
    rest: Array = np.maximum(p - q, 0.0)
    total = rest.sum()
    return rest / total if total > 0.0 else p


def accept_or_resample(
    tokens: Array, p: Array, guess: int, q: Mapping[int, float] | Array, *, accept: float, resample: float
) -> tuple[int, bool]:
    """One place of a draft: the token that stands there, and whether it is the guess.

    Args:
        tokens: the tokens that p allows, ascending, and p their probabilities, float64.
        guess: the guessed token; ``q`` the probabilities it was drawn by, indexed by token.
        accept, resample: numbers in [0, 1), independent of each other and of the guess.
    """
    place = int(np.searchsorted(tokens, guess))
    p_guess = float(p[place]) if place < len(tokens) and tokens[place] == guess else 0.0
    if accept < acceptance_probability(p_guess, float(q[guess])):
        return guess, True
    q_there = np.array([q.get(int(token), 0.0) for token in tokens]) if isinstance(q, Mapping) else q[tokens]
    cumulative = np.cumsum(residual(p, q_there.astype(np.float64)))
    chosen = int(np.searchsorted(cumulative, resample * cumulative[-1], side="right"))
    return int(tokens[min(chosen, len(tokens) - 1)]), False


def accept_by_ratio(sampler: Sampler, logits: Array, draft: Draft) -> list[int]:
    """The acceptance rule for guesses with probabilities; without them, and greedily, what would be chosen anyway.

    Args:
        logits: float32 (len(draft.token_ids) + 1, vocab).
    """
    if draft.probabilities is None or not sampler.options.temperature:
        return accept_what_would_be_chosen(sampler, logits, draft)
    chosen: list[int] = []
    for place, guess in enumerate(draft.token_ids):
        tokens, p = kept_probabilities(logits[place], sampler.rule())
        token, is_guess = accept_or_resample(
            tokens,
            p,
            guess,
            draft.probabilities[place],
            accept=sampler.random_number(ACCEPT),
            resample=sampler.random_number(RESAMPLE),
        )
        sampler.push(token)
        chosen.append(token)
        if not is_guess:
            return chosen
    return [*chosen, sampler.choose(logits[len(draft.token_ids)])]
