"""Proposers in the engine: answers are what they would be without, in a batch, under preemption, greedy and sampled."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flyweight.engine.engine import Engine
from flyweight.engine.proposer import Proposer
from flyweight.engine.request import Request, RequestRecord
from flyweight.engine.sampling import SamplingOptions
from flyweight.engine.scheduler import StepBudget
from flyweight.engine.speculation.acceptance import accept_by_ratio
from flyweight.engine.speculation.controller import DraftController, DraftLimits
from flyweight.engine.speculation.draft_model import DraftModel
from flyweight.engine.speculation.prompt_lookup import PromptLookup
from flyweight.errors import UsageError
from flyweight.runtime.sequences import FreeBlocks, SequencePlanner
from tests.support.foretold import VOCAB, Foretold

BLOCK_SIZE = 4


def quoting(tokens: Sequence[int]) -> int:
    """Says what stood 11 tokens before, with a slip now and then."""
    return (tokens[-11] if len(tokens) > 11 and len(tokens) % 17 else sum(tokens[-3:])) % 48


def eager(longest: int = 6) -> DraftController:
    """Drafts whenever there is something to guess: clocks shall not decide what a test sees."""
    controller = DraftController(DraftLimits(longest=longest, allowed_loss=1e9, credit_steps=1e9, least_gain=0.0))
    controller.lengths([])
    for tokens in (1, 1000):
        controller.observe([], batch_tokens=tokens, seconds=1.0)
    return controller


def draft_model(num_blocks: int = 100, rule: Any = quoting) -> DraftModel:
    return DraftModel(
        Foretold(BLOCK_SIZE, rule).forward,
        SequencePlanner(FreeBlocks(num_blocks), block_size=BLOCK_SIZE),
        vocab_size=VOCAB,
        draft_vocab_size=VOCAB,
        context_length=200,
        controller=eager(),
    )


def run(
    requests: Sequence[Request], proposer: Proposer | None, *, num_blocks: int = 80, tokens: int = 64
) -> tuple[list[list[int]], list[RequestRecord]]:
    model = Foretold(BLOCK_SIZE, quoting)
    engine = Engine(
        model.forward,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        budget=StepBudget(tokens=tokens, sequences=4),
        context_length=120,
        proposer=proposer,
        acceptance=accept_by_ratio,
    )
    ids = [engine.add(request) for request in requests]
    answers: dict[int, list[int]] = {one: [] for one in ids}
    records: dict[int, RequestRecord] = {}
    while engine.has_work:
        for event in engine.step():
            answers[event.id] += event.token_ids
            if event.record is not None:
                records[event.id] = event.record
        engine.check_integrity()
    return [answers[one] for one in ids], [records[one] for one in ids]


def requests_of(**options: Any) -> list[Request]:
    chance = np.random.default_rng(4)
    return [
        Request(
            token_ids=tuple(chance.integers(8, 48, 14 + 5 * place).tolist()),
            options=SamplingOptions(max_tokens=40 + place, **options),
        )
        for place in range(5)
    ]


@pytest.mark.parametrize("blocks", [80, 26], ids=["roomy", "preempting"])
@pytest.mark.parametrize("make", [lambda: PromptLookup(eager()), draft_model], ids=["lookup", "draft model"])
def test_greedy_answers_are_the_plain_ones(make: Any, blocks: int) -> None:
    requests = requests_of()
    plain, _ = run(requests, None, num_blocks=blocks)
    answers, records = run(requests, make(), num_blocks=blocks)
    assert answers == plain
    assert sum(record.accepted_tokens for record in records) > 40
    assert all(record.draft_tokens >= record.accepted_tokens for record in records)


def test_answers_sampled_with_lookup_are_the_plain_ones() -> None:
    # One-hot logits at this temperature give the foretold token nine times of ten.
    requests = requests_of(temperature=0.16, seed=9, frequency_penalty=0.01)
    plain, _ = run(requests, None)
    answers, records = run(requests, PromptLookup(eager()))
    assert answers == plain
    assert sum(record.accepted_tokens for record in records) > 20


def test_a_token_that_ends_the_answer_ends_it_inside_a_draft() -> None:
    plain, _ = run(requests_of(), None)
    end = plain[0][20]
    requests = [replace(request, stop_ids=frozenset({end})) for request in requests_of()]
    stopped, _ = run(requests, None)
    assert any(len(answer) < 40 for answer in stopped)
    assert run(requests, PromptLookup(eager()))[0] == stopped
    assert run(requests, draft_model())[0] == stopped


def test_a_draft_model_that_draws_is_mostly_accepted_and_repeats_with_the_seed() -> None:
    requests = requests_of(temperature=0.5, seed=3)
    first, records = run(requests, draft_model())
    drafted, accepted = (sum(getattr(one, name) for one in records) for name in ("draft_tokens", "accepted_tokens"))
    assert accepted > 0.95 * drafted > 40  # it is the same model: p and q are equal
    assert run(requests, draft_model())[0] == first


def test_a_full_draft_cache_means_no_draft_and_ends_give_it_back() -> None:
    proposer = draft_model(num_blocks=12)
    answers, _ = run(requests_of(), proposer)
    assert answers == run(requests_of(), None)[0]
    assert proposer.num_free_blocks == 12


def test_a_draft_model_that_is_wrong_changes_nothing() -> None:
    answers, records = run(requests_of(), draft_model(rule=lambda tokens: (quoting(tokens) + 1) % 48))
    assert answers == run(requests_of(), None)[0]
    assert sum(record.accepted_tokens for record in records) == 0


def test_vocabularies_must_agree() -> None:
    with pytest.raises(UsageError, match="the draft model has 32 tokens and the model 50"):
        DraftModel(
            Foretold(4).forward,
            SequencePlanner(FreeBlocks(4)),
            vocab_size=50,
            draft_vocab_size=32,
            context_length=100,
        )
