"""Acceptance: what comes out is distributed by the model alone, by enumeration and by counting."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyweight.engine.proposer import Draft
from flyweight.engine.sampling import Sampler, SamplingOptions, kept_probabilities
from flyweight.engine.speculation.acceptance import (
    accept_by_ratio,
    accept_or_resample,
    acceptance_probability,
    residual,
)

weights = st.lists(st.integers(0, 5), min_size=5, max_size=5).filter(any)


def distribution(values: list[int]) -> Any:
    return np.array(values, np.float64) / sum(values)


@given(p=weights, q=weights)
def test_the_enumerated_outcome_is_the_models_own(p: list[int], q: list[int]) -> None:
    """Over all guesses: accepted mass plus refused mass times the residual is p, token by token."""
    target, guesser = distribution(p), distribution(q)
    outcome, refused = np.zeros(5), 0.0
    for guess in np.flatnonzero(guesser):
        kept = acceptance_probability(target[guess], guesser[guess])
        outcome[guess] += guesser[guess] * kept
        refused += guesser[guess] * (1.0 - kept)
    outcome += refused * residual(target, guesser)
    np.testing.assert_allclose(outcome, target, atol=1e-12)


@given(p=weights, q=weights, data=st.data())
def test_one_place_follows_the_rule(p: list[int], q: list[int], data: st.DataObject) -> None:
    """The code against the rule: the two random numbers are swept over a fine grid."""
    target, guesser = distribution(p), distribution(q)
    guess = data.draw(st.sampled_from(np.flatnonzero(guesser).tolist()))
    tokens = np.flatnonzero(target)
    grid = (np.arange(200) + 0.5) / 200
    kept = [
        accept_or_resample(tokens, target[tokens], guess, guesser, accept=accept, resample=0.5)[1] for accept in grid
    ]
    assert np.mean(kept) == pytest.approx(acceptance_probability(target[guess], guesser[guess]), abs=0.006)
    if acceptance_probability(target[guess], guesser[guess]) < 1.0:
        drawn = [
            accept_or_resample(tokens, target[tokens], guess, dict(enumerate(guesser)), accept=0.999999, resample=one)
            for one in grid
        ]
        assert not any(is_guess for _, is_guess in drawn)
        shares = np.bincount([token for token, _ in drawn], minlength=5) / len(grid)
        np.testing.assert_allclose(shares, residual(target, guesser), atol=0.02)


def chi_square(counts: Any, expected: Any) -> float:
    present = expected > 0
    assert counts[~present].sum() == 0
    return float(((counts[present] - expected[present]) ** 2 / expected[present]).sum())


OPTIONS = [
    SamplingOptions(temperature=1.0, seed=0),
    SamplingOptions(temperature=0.7, top_k=4, seed=0),
    SamplingOptions(temperature=1.4, top_p=0.8, min_p=0.05, seed=0, logit_bias=((1, 1.0),), repetition_penalty=1.3),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_two_places_are_distributed_as_direct_draws(options: SamplingOptions) -> None:
    """The first two tokens of 6000 runs, guessed by another distribution, against the model's own probabilities."""
    vocab, runs = 6, 6000
    chance = np.random.default_rng(11)
    first, after = (
        chance.normal(0, 1.5, vocab).astype(np.float32),
        chance.normal(0, 1.5, (vocab, vocab)).astype(np.float32),
    )
    guesser = np.full((2, vocab), 1.0 / vocab, np.float32)
    counts = np.zeros((vocab, vocab))
    for run in range(runs):
        sampler = Sampler(SamplingOptions(**{**fields(options), "seed": run}), [0, 2])
        guesses = tuple(int(token) for token in chance.integers(0, vocab, 2))
        # The logits after the first guess are those of that guess: what a step would have computed.
        logits = np.stack([first, after[guesses[0]], after[guesses[1]]])
        chosen = accept_by_ratio(sampler, logits, Draft(token_ids=guesses, probabilities=guesser))
        if len(chosen) == 1:
            chosen.append(sampler.choose(after[chosen[0]]))
        counts[chosen[0], chosen[1]] += 1
    expected = np.zeros((vocab, vocab))
    tokens, p = kept_probabilities(first, Sampler(options, [0, 2]).rule())
    for token, share in zip(tokens.tolist(), p, strict=True):
        sampler = Sampler(options, [0, 2])
        sampler.push(token)
        following, q = kept_probabilities(after[token], sampler.rule())
        expected[token, following] = share * q
    degrees = int((expected > 0).sum()) - 1
    limit = degrees + 3.1 * np.sqrt(2 * degrees)  # about one honest run in a thousand lies above
    assert chi_square(counts.ravel(), runs * expected.ravel()) < limit


def fields(options: SamplingOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in SamplingOptions.__dataclass_fields__}


def test_certain_guesses_leave_the_answer_as_it_would_be() -> None:
    """Without probabilities the chosen tokens are those of plain decoding with the seed, whatever was guessed."""
    chance = np.random.default_rng(3)
    logits = chance.normal(0, 1, (5, 30)).astype(np.float32)
    for options in (SamplingOptions(), SamplingOptions(temperature=1.0, seed=8)):
        plain = Sampler(options, [])
        expected = [plain.choose(row) for row in logits]
        for right in range(5):
            guesses = (*expected[:right], *[29 - token for token in expected[right:4]])
            chosen = accept_by_ratio(Sampler(options, []), logits, Draft(token_ids=guesses))
            assert chosen == expected[: right + 1]


def test_greedy_requests_ignore_probabilities() -> None:
    logits = np.eye(3, dtype=np.float32)
    draft = Draft(token_ids=(0, 2), probabilities=np.full((2, 3), 1 / 3, np.float32))
    assert accept_by_ratio(Sampler(SamplingOptions(), []), logits, draft) == [0, 1]
