"""Sampling: each filter against transformers' own, ranges, penalties, and seeds that hold in any company."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyweight.engine.sampling import Sampler, SamplingOptions, kept_probabilities
from flyweight.errors import CheckpointError, FlyweightError, UsageError

filters = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([0, 1, 3, 20, 200]),
        "top_p": st.sampled_from([0.05, 0.5, 0.9, 1.0]),
        "min_p": st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    }
)


def random_logits(seed: int, size: int = 60) -> Any:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


@given(seed=st.integers(0, 10_000), options=filters)
def test_filters_keep_what_the_definitions_say(seed: int, options: dict[str, Any]) -> None:
    """A second, plainer writing of the filters, one token at a time."""
    logits = random_logits(seed).astype(np.float64)
    shares = {token: math.exp(value / options["temperature"]) for token, value in enumerate(logits)}
    ranked = sorted(shares, key=lambda token: -shares[token])
    if options["top_k"]:
        ranked = ranked[: options["top_k"]]
    total, nucleus, covered = sum(shares[token] for token in ranked), [], 0.0
    for token in ranked:
        if options["top_p"] < 1.0 and covered / total >= options["top_p"]:
            break
        nucleus.append(token)
        covered += shares[token]
    kept = sorted(token for token in nucleus if shares[token] >= options["min_p"] * shares[nucleus[0]])
    tokens, probabilities = kept_probabilities(logits.astype(np.float32), **options)
    assert tokens.tolist() == kept
    mass = sum(shares[token] for token in kept)
    np.testing.assert_allclose(probabilities, [shares[token] / mass for token in kept], rtol=1e-9)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [(0.7, 0, 1.0, 0.0), (1.0, 5, 1.0, 0.0), (1.3, 0, 0.8, 0.0), (1.0, 0, 1.0, 0.2), (0.9, 12, 0.7, 0.3)],
)
def test_filters_agree_with_transformers(seed: int, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers").generation.logits_process
    logits = random_logits(seed)
    scores = process.TemperatureLogitsWarper(temperature)(None, torch.from_numpy(logits)[None])
    if top_k:
        scores = process.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1.0:
        scores = process.TopPLogitsWarper(top_p)(None, scores)
    if min_p:
        scores = process.MinPLogitsWarper(min_p)(None, scores)
    expected = torch.softmax(scores[0].double(), dim=-1).numpy()
    tokens, shares = kept_probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert tokens.tolist() == np.flatnonzero(expected).tolist()
    np.testing.assert_allclose(shares, expected[tokens], rtol=1e-5)


def test_top_p_stops_when_it_is_reached_exactly() -> None:
    logits = np.log(np.array([0.25, 0.5, 0.25], np.float64))
    tokens, shares = kept_probabilities(logits, temperature=1.0, top_k=0, top_p=0.5, min_p=0.0)
    assert (tokens.tolist(), shares.tolist()) == ([1], [1.0])


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    sampler = Sampler(SamplingOptions(temperature=1.0, seed=1), [])
    counts = np.bincount([sampler.choose(logits) for _ in range(5000)], minlength=3) / 5000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.2], atol=0.03)


def test_a_seed_repeats_itself_and_no_seed_does_not() -> None:
    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.5, seed=seed), [])
        return [sampler.choose(random_logits(step)) for step in range(40)]

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)
    assert draws(None) != draws(None)


def test_greedy_takes_the_largest_and_leaves_the_logits_alone() -> None:
    logits = random_logits(1)
    before = logits.copy()
    sampler = Sampler(SamplingOptions(repetition_penalty=5.0, presence_penalty=1.0), [int(logits.argmax())])
    assert Sampler(SamplingOptions(), []).choose(logits) == logits.argmax()
    assert sampler.choose(logits) != logits.argmax()
    np.testing.assert_array_equal(logits, before)


def test_repetition_penalty_counts_prompt_and_answer_as_transformers_does() -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers").generation.logits_process
    penalty = process.RepetitionPenaltyLogitsProcessor(1.3)
    prompt = [3, 3, 7]
    sampler = Sampler(SamplingOptions(repetition_penalty=1.3), prompt)
    said = list(prompt)
    for step in range(30):
        logits = random_logits(step, 12)
        expected = penalty(torch.tensor([said]), torch.from_numpy(logits)[None].clone())[0].argmax()
        said.append(sampler.choose(logits))
        assert said[-1] == expected


def test_presence_and_frequency_count_the_answer_only() -> None:
    logits = np.array([1.0, 0.9, 0.0], np.float32)
    presence = Sampler(SamplingOptions(presence_penalty=0.5), [0])
    assert [presence.choose(logits) for _ in range(3)] == [0, 1, 0]
    frequency = Sampler(SamplingOptions(frequency_penalty=0.35), [0])
    assert [frequency.choose(logits) for _ in range(6)] == [0, 1, 0, 1, 0, 1]
    assert [Sampler(SamplingOptions(frequency_penalty=-1.0), []).choose(logits) for _ in range(3)] == [0, 0, 0]


def test_damaged_logits_are_named() -> None:
    for value in (np.nan, np.inf):
        logits = np.array([0.0, value, 1.0], np.float32)
        with pytest.raises(FlyweightError, match="logits are not finite"):
            Sampler(SamplingOptions(), []).choose(logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1 is out of range; choose 0 to 2"),
        ({"temperature": 2.1}, "temperature=2.1 is out of range; choose 0 to 2"),
        ({"temperature": math.nan}, "temperature=nan is not a finite number; choose 0 to 2"),
        ({"temperature": "hot"}, "temperature='hot' is not a finite number"),
        ({"top_p": 0.0}, "top_p=0.0 is out of range; choose above 0 to 1"),
        ({"top_p": 1.5}, "top_p=1.5 is out of range; choose above 0 to 1"),
        ({"min_p": -1}, "min_p=-1 is out of range; choose 0 to 1"),
        ({"top_k": -1}, "top_k=-1 is not allowed; choose a number of tokens, or 0 for all"),
        ({"top_k": 1.5}, "top_k=1.5 is not allowed"),
        ({"repetition_penalty": 0}, "repetition_penalty=0 is out of range; choose above 0 to 10"),
        ({"presence_penalty": 3}, "presence_penalty=3 is out of range; choose -2 to 2"),
        ({"frequency_penalty": -3}, "frequency_penalty=-3 is out of range; choose -2 to 2"),
        ({"seed": -1}, "seed=-1 is not allowed; choose 0 to 2^63-1"),
        ({"max_tokens": 0}, "max_tokens=0 is not allowed; choose 1 or more"),
        ({"max_tokens": True}, "max_tokens=True is not allowed"),
        ({"stop": "word"}, "stop='word' is not allowed; give non-empty strings"),
        ({"stop": ("a", "")}, "is not allowed; give non-empty strings"),
        ({"stop": ("a",) * 17}, "17 stop strings are too many; give at most 16"),
    ],
)
def test_values_out_of_range_are_refused_at_birth(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        SamplingOptions(**options)
    assert message in str(caught.value)


def test_generation_config_gives_what_is_not_said() -> None:
    config = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": None, "max_length": 20}
    defaults = SamplingOptions.from_generation_config(config)
    assert (defaults.temperature, defaults.top_p, defaults.top_k) == (0.6, 0.9, None)
    chosen = SamplingOptions(temperature=0.0, top_k=4).with_defaults(defaults)
    assert (chosen.temperature, chosen.top_k, chosen.top_p) == (0.0, 4, 0.9)
    assert SamplingOptions.from_generation_config({"temperature": 0.6}).temperature == 0.0
    assert SamplingOptions.from_generation_config({"do_sample": True}).temperature == 1.0
    with pytest.raises(CheckpointError, match=r"generation_config\.json: top_p=7 is out of range"):
        SamplingOptions.from_generation_config({"top_p": 7})
