"""Sampling: the kernel chooses exactly what its twin chooses, on every instruction set."""

import numpy as np
import pytest

from flyweight import kernels
from flyweight.errors import KernelError
from flyweight.kernels import ChoiceRule, Edits, reference_sampling

RULES = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 1},
    {"temperature": 1.3, "top_k": 40},
    {"temperature": 1.0, "top_k": 7, "top_p": 0.6},
    {"temperature": 1.0, "top_p": 0.95},
    {"temperature": 2.0, "top_p": 0.3},
    {"temperature": 1.0, "top_p": 1e-9},
    {"temperature": 0.9, "min_p": 0.05},
    {"temperature": 1.7, "min_p": 1.0},
    {"temperature": 0.6, "top_k": 30, "top_p": 0.9, "min_p": 0.1},
    {"temperature": 1e-9, "top_p": 0.5},
    {"temperature": 1.0, "top_k": 10**6, "top_p": 0.999999, "min_p": 1e-12},
]


def logits_of(rng, kind, vocab):
    values = rng.standard_normal(vocab).astype(np.float32)
    if kind == "peaked":
        return values * np.float32(6)
    if kind == "flat":
        return np.round(values * 2).astype(np.float32) / np.float32(8)  # many ties
    if kind == "equal":
        return np.full(vocab, -3.5, np.float32)
    values[rng.random(vocab) < 0.7] = -np.inf
    values[vocab // 2] = 1.0
    return values


def edits_of(rng, vocab):
    tokens = rng.permutation(vocab)[: min(vocab, 20)].astype(np.int32)
    shifts = rng.standard_normal(len(tokens)).astype(np.float32)
    shifts[1:4] = -np.inf
    return Edits(tokens=tokens, factors=rng.uniform(0.5, 2, len(tokens)).astype(np.float32), shifts=shifts)


def mask_of(rng, vocab, allowed):
    bits = rng.random(32 * ((vocab + 31) // 32)) < allowed
    bits[vocab // 2] = True
    bits[64:96] = allowed > 0.5  # a whole word
    return np.packbits(bits, bitorder="little").view(np.uint32)


@pytest.mark.parametrize("kind", ["peaked", "flat", "equal", "masked"])
@pytest.mark.parametrize("vocab", [1, 15, 64, 67, 1000, 4099])
def test_same_tokens_and_shares_as_the_twin(isa, rng, kind, vocab):
    rules, rows = [], []
    for number, options in enumerate(RULES):
        for has_edits in (False, True):
            edits = edits_of(rng, vocab) if has_edits and vocab > 4 else None
            mask = (None, mask_of(rng, vocab, 0.9), mask_of(rng, vocab, 0.03))[len(rules) % 3]
            rules.append(ChoiceRule(**options, seed=number, stream=3, position=number * 7, edits=edits, mask=mask))
            rows.append(logits_of(rng, kind, vocab))
    logits = np.stack(rows)
    before = logits.copy()
    np.testing.assert_array_equal(kernels.sample(logits, rules), reference_sampling.sample(logits, rules))
    np.testing.assert_array_equal(logits, before)
    for row, rule in zip(logits, rules, strict=True):
        tokens, shares = kernels.kept_shares(row, rule)
        expected_tokens, expected_shares = reference_sampling.kept_shares(row, rule)
        np.testing.assert_array_equal(tokens, expected_tokens)
        np.testing.assert_array_equal(shares, expected_shares)


def test_a_row_is_chosen_alone_as_in_company(isa, rng):
    logits = np.stack([logits_of(rng, "peaked", 5000) for _ in range(9)])
    rules = [ChoiceRule(temperature=1.5, seed=row, position=row) for row in range(9)]
    together = kernels.sample(logits, rules)
    with kernels.use_threads(1):
        alone = [kernels.sample(logits[row : row + 1], [rules[row]])[0] for row in range(9)]
    assert together.tolist() == alone


def test_shares_are_the_exponential(isa):
    x = -np.abs(np.random.default_rng(1).normal(0, 6, 4096)).astype(np.float32)
    x[0] = 0.0
    tokens, shares = kernels.kept_shares(x, ChoiceRule(temperature=1.0))
    assert len(tokens) == len(x)
    np.testing.assert_allclose(shares / 2**34, np.exp(x.astype(np.float64)), rtol=3e-7, atol=2**-35)


def test_draws_follow_the_shares(isa):
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    draws = 8000
    rules = [ChoiceRule(temperature=1.0, seed=5, position=position) for position in range(draws)]
    counts = np.bincount(kernels.sample(np.tile(logits, (draws, 1)), rules), minlength=4)
    expected = draws * np.array([0.4, 0.3, 0.2, 0.1])
    assert (
        (counts - expected) ** 2 / expected
    ).sum() < 16.27  # 0.1 % of honest runs lie above it, and the seed is fixed


def test_random_words_are_those_of_numpys_philox():
    for seed, stream, position, purpose in [(0, 0, 1, 0), (2**63, 7, 123456, 3), (2**64 - 1, 2**64 - 1, 2**64 - 1, 1)]:
        generator = np.random.Philox(key=seed | stream << 64, counter=(position | purpose << 64) - 1 & 2**256 - 1)
        expected = int(generator.random_raw())  # numpy counts up before it draws
        assert kernels.random_word(seed, stream, position, purpose) == expected
        assert reference_sampling.random_word(seed, stream, position, purpose) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 70, 129])
def test_damaged_rows_are_minus_one_and_do_not_harm_others(isa, value, place):
    logits = np.zeros((2, 130), np.float32)
    logits[0, place] = value
    for temperature in (0.0, 1.0):
        rules = [ChoiceRule(temperature=temperature), ChoiceRule()]
        assert kernels.sample(logits, rules).tolist() == [-1, 0]
        assert reference_sampling.sample(logits, rules).tolist() == [-1, 0]
        assert len(kernels.kept_shares(logits[0], rules[0])[0]) == 0
    assert kernels.sample(np.full((1, 130), -np.inf, np.float32), [ChoiceRule()]).tolist() == [-1]


@pytest.mark.parametrize(("vocab", "num_top"), [(3, 2), (1000, 0), (1000, 20), (1000, 64)])
def test_log_probabilities(isa, rng, vocab, num_top):
    logits = np.stack([logits_of(rng, kind, vocab) for kind in ("peaked", "flat", "equal", "masked")])
    rules = [ChoiceRule(temperature=1.0, edits=edits_of(rng, vocab) if vocab > 4 else None) for _ in logits]
    tokens, scores = kernels.sample_with_log_probabilities(logits, rules, num_top)
    expected_tokens, expected = reference_sampling.sample_with_log_probabilities(logits, rules, num_top)
    np.testing.assert_array_equal(tokens, expected_tokens)
    np.testing.assert_array_equal(scores.top_tokens, expected.top_tokens)
    np.testing.assert_allclose(scores.chosen, expected.chosen, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(scores.top, expected.top, rtol=1e-6, atol=1e-5)


def test_a_mask_forbids_what_it_leaves_out_and_no_log_probability(isa, rng):
    logits = logits_of(rng, "peaked", 100)
    mask = np.zeros(4, np.uint32)
    mask[2] = 1 << 3 | 1 << 30  # tokens 67 and 94
    allowed = [67, 94]
    for temperature in (0.0, 1.0):
        rule = ChoiceRule(temperature=temperature, seed=1, mask=mask)
        assert kernels.sample(logits[None], [rule])[0] in allowed
        _, scores = kernels.sample_with_log_probabilities(logits[None], [rule], 1)
        assert scores.top_tokens[0, 0] == logits.argmax()
    tokens, shares = kernels.kept_shares(logits, ChoiceRule(temperature=1.0, mask=mask))
    assert set(tokens[shares > 0].tolist()) <= set(allowed)
    assert kernels.sample(logits[None], [ChoiceRule(mask=np.zeros(4, np.uint32))]).tolist() == [-1]
    mask[:] = 0
    mask[3] = 1 << 4  # token 100, which is beyond the vocabulary
    assert kernels.sample(logits[None], [ChoiceRule(mask=mask)]).tolist() == [-1]


def test_what_does_not_fit_is_refused():
    logits, rule = np.zeros((1, 8), np.float32), ChoiceRule()
    outside = Edits(tokens=np.array([8], np.int32), factors=np.ones(1, np.float32), shifts=np.zeros(1, np.float32))
    with pytest.raises(KernelError, match=r"logits has shape \(1, 8\); \(2, any\) is needed"):
        kernels.sample(logits, [rule, rule])
    with pytest.raises(KernelError, match="logits has dtype float64"):
        kernels.sample(logits.astype(np.float64), [rule])
    with pytest.raises(KernelError, match="edits name tokens from 8 to 8; the vocabulary goes from 0 to 7"):
        kernels.sample(logits, [ChoiceRule(edits=outside)])
    with pytest.raises(KernelError, match=r"mask has shape \(2,\); \(1\) is needed"):
        kernels.sample(logits, [ChoiceRule(mask=np.ones(2, np.uint32))])
    with pytest.raises(KernelError, match="mask has dtype int32"):
        kernels.sample(logits, [ChoiceRule(mask=np.ones(1, np.int32))])
    with pytest.raises(KernelError, match="num_top=9 is not possible; choose 0 to 8"):
        kernels.sample_with_log_probabilities(logits, [rule], 9)
    with pytest.raises(KernelError, match="logits have no columns"):
        kernels.sample(np.zeros((1, 0), np.float32), [rule])
    assert kernels.sample(np.zeros((0, 8), np.float32), []).tolist() == []
