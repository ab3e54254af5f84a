"""Prompt lookup: the longest agreeing place is found, whatever it is found with, and its cost does not grow."""

import random

from flyweight.engine.proposer import DraftWanted
from flyweight.engine.sampling import Sampler, SamplingOptions
from flyweight.engine.speculation.controller import DraftController
from flyweight.engine.speculation.prompt_lookup import Match, NGramIndex, PromptLookup, continuation


def longest_match(tokens: list[int]) -> Match | None:
    """The definition, by trying every place."""
    best: Match | None = None
    for place in range(2, len(tokens)):
        length = 0
        while length < min(place, 32) and tokens[place - 1 - length] == tokens[-1 - length]:
            length += 1
        if length >= 2 and (best is None or length >= best.length):
            best = Match(place=place, length=length)
    return best


def test_the_longest_match_is_found_as_the_sequence_grows() -> None:
    chance = random.Random(5)
    for _ in range(40):
        tokens, index = [1, 2, 3], NGramIndex()
        for _ in range(60):
            tokens.append(chance.randrange(12))
            assert index.find(tokens) == longest_match(tokens)


def test_of_many_places_the_latest_sixteen_are_looked_at() -> None:
    index = NGramIndex()
    tokens = [9, 9, 1, 2, 7] + [8, 1, 2] * 16 + [9, 9, 1, 2]
    assert index.find(tokens) == Match(place=5 + 48, length=2)
    assert index.find([9, 9, 1, 2, 7] + [8, 1, 2] * 15 + [9, 9, 1, 2]) is not None


def test_nothing_is_found_in_what_is_new() -> None:
    index = NGramIndex()
    assert index.find([]) is None
    assert index.find([1]) is None
    assert index.find([1, 2, 3, 4, 1]) is None
    assert index.find([1, 2, 3, 4, 1, 2]) == Match(place=2, length=2)


def test_a_match_that_reaches_the_end_goes_round() -> None:
    assert continuation([1, 2, 3, 1, 2], Match(place=2, length=2), 6) == (3, 1, 2, 3, 1, 2)
    assert continuation([5, 5, 5], Match(place=2, length=2), 3) == (5, 5, 5)


def wanted(tokens: list[int], most: int = 20) -> DraftWanted:
    return DraftWanted(id=1, token_ids=tokens, most=most, sampler=Sampler(SamplingOptions(), tokens))


def test_the_proposer_guesses_what_followed_and_no_more_than_may_be_of_use() -> None:
    controller = DraftController()
    controller.lengths([])
    controller.observe([], batch_tokens=1, seconds=1.0)
    controller.observe([], batch_tokens=40, seconds=1.1)
    proposer = PromptLookup(controller)
    text = list(range(100, 140))
    tokens = [*text, *text[:20]]
    (draft,) = proposer.propose([wanted(tokens)])
    assert len(draft.token_ids) == controller.limits.longest
    assert draft.token_ids == tuple(text[20 : 20 + len(draft.token_ids)])
    assert draft.probabilities is None
    (cut,) = proposer.propose([wanted(tokens, most=3)])
    assert cut.token_ids == tuple(text[20:23])
    (none,) = proposer.propose([wanted([*tokens, 7])])
    assert none.token_ids == ()
    proposer.forget(1)
    (fresh,) = proposer.propose([wanted([1, 2, 3])])
    assert fresh.token_ids == ()
