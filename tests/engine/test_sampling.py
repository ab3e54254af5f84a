"""Sampling: each filter against transformers' own, ranges, penalties, and seeds that hold in any company."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyweight import kernels
from flyweight.engine.sampling import Sampler, SamplingOptions, choose_tokens, kept_probabilities
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
    most = max(shares.values())
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
    kept = [token for token in kept if shares[token] > 1e-9 * most]  # those far below are never drawn
    tokens, probabilities = kept_probabilities(logits.astype(np.float32), kernels.ChoiceRule(**options))
    likely = probabilities > 1e-9 * probabilities.max()
    tokens, probabilities = tokens[likely], probabilities[likely]
    assert tokens.tolist() == kept
    mass = sum(shares[token] for token in kept)
    np.testing.assert_allclose(probabilities, [shares[token] / mass for token in kept], rtol=1e-6, atol=1e-10)


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
    rule = kernels.ChoiceRule(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    tokens, shares = kept_probabilities(logits, rule)
    assert tokens.tolist() == np.flatnonzero(expected).tolist()
    np.testing.assert_allclose(shares, expected[tokens], rtol=1e-5, atol=1e-9)


def test_top_p_stops_when_it_is_reached_exactly() -> None:
    rule = kernels.ChoiceRule(temperature=1.0, top_p=0.5)
    tokens, shares = kept_probabilities(np.zeros(4, np.float32), rule)
    assert (tokens.tolist(), shares.tolist()) == ([0, 1], [0.5, 0.5])


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


def test_logit_bias_is_added_after_the_penalties() -> None:
    logits = np.array([1.0, 0.9, -2.0], np.float32)
    assert Sampler(SamplingOptions(logit_bias=((2, 3.2),)), []).choose(logits) == 2
    assert Sampler(SamplingOptions(logit_bias=((2, 2.8),)), []).choose(logits) == 0
    # The penalty makes -2 to -20. Were the bias added first, 21 would become 2.1 and win.
    assert Sampler(SamplingOptions(logit_bias=((2, 20.5),), repetition_penalty=10.0), [2]).choose(logits) == 0
    assert Sampler(SamplingOptions(logit_bias=((2, 21.5),), repetition_penalty=10.0), [2]).choose(logits) == 2


def test_ends_are_forbidden_until_min_tokens() -> None:
    logits = np.array([0.0, 3.0, 2.0], np.float32)
    sampler = Sampler(SamplingOptions(min_tokens=2, stop_token_ids=(2,)), [], stop_ids=[1])
    assert [sampler.choose(logits) for _ in range(4)] == [0, 0, 1, 1]
    biased = Sampler(SamplingOptions(min_tokens=1, stop_token_ids=(1,), logit_bias=((1, -9.0),)), [])
    assert [biased.choose(logits) for _ in range(2)] == [2, 2]


def test_many_samplers_choose_as_each_would_alone() -> None:
    options = [
        SamplingOptions(),
        SamplingOptions(temperature=1.0, seed=3, repetition_penalty=1.5, frequency_penalty=0.5),
        SamplingOptions(temperature=1.5, top_p=0.9, seed=4, logit_bias=((5, 2.0),)),
        SamplingOptions(temperature=0.7, top_k=5, seed=4, logprobs=2),
    ]
    together, alone = ([Sampler(one, [1, 2, 3]) for one in options] for _ in range(2))
    for step in range(80):
        logits = np.stack([random_logits(step * 4 + row) for row in range(4)])
        expected = [sampler.choose(logits[row]) for row, sampler in enumerate(alone)]
        assert choose_tokens(together, logits) == expected
    assert together[3].log_probabilities == alone[3].log_probabilities


def test_streams_of_one_seed_differ() -> None:
    options = SamplingOptions(temperature=1.5, seed=3)
    draws = [
        [sampler.choose(random_logits(step)) for step in range(20)]
        for sampler in (Sampler(options, [], stream=0), Sampler(options, [], stream=1), Sampler(options, [], stream=0))
    ]
    assert draws[0] == draws[2] != draws[1]


def test_log_probabilities_are_of_the_plain_logits() -> None:
    logits = random_logits(8)
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    sampler = Sampler(SamplingOptions(temperature=0.5, logprobs=3, logit_bias=((7, 100.0),)), [])
    assert sampler.choose(logits) == 7
    (said,) = sampler.log_probabilities
    assert said.token == 7
    assert said.log_probability == pytest.approx(expected[7], abs=1e-5)
    assert [token for token, _ in said.top] == np.argsort(-logits)[:3].tolist()
    assert [value for _, value in said.top] == pytest.approx(np.sort(expected)[::-1][:3].tolist(), abs=1e-5)


def test_a_choice_costs_what_changed_and_not_the_context() -> None:
    sampler = Sampler(SamplingOptions(repetition_penalty=1.1), list(range(50)) * 40)
    before = sampler.rule().edits
    assert before is not None
    assert len(before.tokens) == 50
    sampler.push(3)
    after = sampler.rule().edits
    assert after is not None
    assert np.shares_memory(before.tokens, after.tokens)


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
        ({"min_tokens": 257}, "min_tokens=257 is not allowed; choose 0 to max_tokens=256"),
        ({"logprobs": 21}, "logprobs=21 is not allowed; choose 0 to 20 most likely tokens"),
        ({"stop_token_ids": (-1,)}, "stop_token_ids=-1 is not allowed; choose token ids from 0 on"),
        ({"stop_token_ids": (1,) * 65}, "stop_token_ids has 65 entries; give at most 64"),
        ({"logit_bias": ((1, 101),)}, "logit_bias of token 1=101 is out of range; choose -100 to 100"),
        ({"logit_bias": ((1, 1), (1, 2))}, "logit_bias names a token twice"),
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


@pytest.mark.parametrize("options", [{"stop_token_ids": (60,)}, {"logit_bias": ((60, 1.0),)}])
def test_tokens_beyond_the_vocabulary_are_named(options: dict[str, Any]) -> None:
    SamplingOptions(**options).check_vocabulary(61)
    with pytest.raises(UsageError, match="names token 60; the model's ids go from 0 to 59"):
        SamplingOptions(**options).check_vocabulary(60)


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
