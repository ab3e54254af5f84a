"""What an answer may not hold: forbidden words, and all tokens but those that are allowed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight import SamplingOptions, load
from flyweight.demo_model import model_path
from flyweight.engine.forbidden import ForbiddenSequences, mask_of, sequences_of
from flyweight.engine.sampling import Sampler
from flyweight.engine.stop_strings import StopStrings
from flyweight.errors import UsageError

PROMPT = "The opposite of hot is"


@pytest.fixture(scope="module")
def model():
    return load(model_path())


def answer(model, **options):
    options = {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True, **options}
    return model.generate([PROMPT], SamplingOptions(**options))[0]


def test_a_mask_has_a_bit_for_each_token():
    words = mask_of([0, 31, 32, 99], 100)
    assert words.dtype == np.uint32
    assert words.tolist() == [2**31 + 1, 1, 0, 8]


@settings(max_examples=60, deadline=None)
@given(
    sequences=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), max_size=5),
    tokens=st.lists(st.integers(0, 4), max_size=30),
)
def test_what_is_forbidden_is_what_would_complete_a_sequence(sequences, tokens):
    watched = ForbiddenSequences(sequences)
    seen: list[int] = []
    before = watched.now
    for token in [None, *tokens]:
        if token is not None:
            seen.append(token)
            changed = watched.push(token)
            assert changed == before ^ watched.now
        before = watched.now
        completing = [one for one in sequences if (seen[-len(one) + 1 :] if len(one) > 1 else []) == one[:-1]]
        expected = {one[-1] for one in completing}
        assert watched.now == expected


def test_a_forbidden_word_is_never_said(model):
    said = answer(model).text
    first = said.split()[0].strip(".")
    told = answer(model, bad_words=(first,)).text
    assert first not in told.split(".")[0]
    assert told != said
    # A word of several tokens loses its last only.
    ids = answer(model).token_ids
    pair = model.tokenizer.decode(ids[:2])
    sequences = sequences_of([pair], model.tokenizer)
    assert all(sequence for sequence in sequences)


def test_words_are_read_with_and_without_a_space(model):
    found = sequences_of(["hot"], model.tokenizer)
    assert tuple(model.tokenizer.encode("hot", add_special_tokens=False)) in found
    for sequence in found:
        assert model.tokenizer.decode(sequence).strip() == "hot"


def test_only_allowed_tokens_are_chosen(model):
    allowed = tuple(model.encode("cold hot warm"))
    for temperature in (0.0, 1.5):
        ids = answer(model, allowed_token_ids=allowed, temperature=temperature, seed=1).token_ids
        assert set(ids) <= set(allowed)
    # An end is chosen where it is named, and only there.
    end = min(model.stop_ids)
    assert answer(model, allowed_token_ids=(end,), ignore_eos=False).token_ids == (end,)
    assert len(answer(model, allowed_token_ids=allowed[:1], ignore_eos=False).token_ids) == 12


def test_they_hold_beside_a_constraint(model):
    from flyweight.engine.grammar.spec import ConstraintSpec

    options = SamplingOptions(max_tokens=10, temperature=0.0, bad_words=("yes",))
    choice = ConstraintSpec.choice(["yes", "no"])
    assert model.generate([PROMPT], options, constraint=choice)[0].text == "no"


def test_they_hold_for_guessed_tokens(model):
    from flyweight.engine.speculation.prompt_lookup import PromptLookup

    plain = answer(model, bad_words=("cold",), max_tokens=40)
    model.open_engine(proposer=PromptLookup())
    try:
        assert answer(model, bad_words=("cold",), max_tokens=40).token_ids == plain.token_ids
    finally:
        model.open_engine()


def test_where_nothing_is_left_to_choose_it_is_the_requests_fault():
    logits = np.zeros(40, np.float32)
    sampler = Sampler(SamplingOptions(), [], choosable=mask_of([5], 40), bad_sequences=[(5,)])
    with pytest.raises(UsageError, match="no token can be chosen here"):
        sampler.choose(logits)


def test_ends_alone_cannot_wait(model):
    with pytest.raises(UsageError, match="allowed_token_ids names only tokens that end the answer"):
        answer(model, allowed_token_ids=tuple(model.stop_ids), min_tokens=2, ignore_eos=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allowed_token_ids": (-1,)}, "allowed_token_ids=-1 is not allowed"),
        ({"allowed_token_ids": (1.0,)}, "allowed_token_ids=1.0 is not allowed"),
        ({"allowed_token_ids": tuple(range(8193))}, "allowed_token_ids has 8193 entries; give at most 8192"),
        ({"bad_words": ("a",) * 65}, "bad_words has 65 entries; give at most 64"),
        ({"bad_words": ("",)}, "bad_words=.* is not allowed; give texts"),
        ({"bad_words": (" ",)}, "bad_words=.* is not allowed; give texts"),
        ({"bad_words": "text"}, "bad_words=.* is not allowed; give texts"),
    ],
)
def test_what_is_not_possible_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        SamplingOptions(**options)


def test_a_token_that_the_model_does_not_have_is_refused(model):
    with pytest.raises(UsageError, match="allowed_token_ids names token 999999"):
        answer(model, allowed_token_ids=(999999,))


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_stop_string_is_shown_where_it_is_wanted(cut):
    text = "one two three"
    stops = StopStrings(["two"], includes=True)
    pieces = [stops.push(text[place : place + cut]) for place in range(0, len(text), cut)]
    assert "".join(pieces) == "one two"
    assert stops.matched == "two"


def test_ends_are_shown_where_they_are_wanted(model):
    end = min(model.stop_ids)
    forced = {"allowed_token_ids": (end,), "ignore_eos": False}
    assert answer(model, **forced).text == ""
    shown = answer(model, **forced, include_stop_str_in_output=True, skip_special_tokens=False)
    assert shown.text == model.tokenizer.token(end)
    assert answer(model, **forced, include_stop_str_in_output=True).text == "", "a special token is left out"
    word = answer(model).token_ids[0]
    assert answer(model, stop_token_ids=(word,)).text == ""
    assert answer(model, stop_token_ids=(word,), include_stop_str_in_output=True).text


def test_special_tokens_are_shown_where_they_are_wanted(model):
    special = model.tokenizer.special_token_id("<|user|>")
    forced = {"allowed_token_ids": (special,), "max_tokens": 3}
    assert answer(model, **forced).text == ""
    assert answer(model, **forced, skip_special_tokens=False).text == "<|user|>" * 3
