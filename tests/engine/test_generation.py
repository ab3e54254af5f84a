"""The loop that runs many answers: who takes part in which step, when answers end, and what is given back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyweight.engine.generation import Answer, Completion, check_room, run_answers
from flyweight.engine.sampling import SamplingOptions
from flyweight.errors import ResourceError, UsageError
from flyweight.runtime.batch import Batch
from flyweight.runtime.sequences import FreeBlocks, SequencePlanner

VOCAB = 50
END = 49


class Arithmetic:
    """A model whose answer can be foretold: the next token is (sum of all tokens so far) mod 48, and it checks that
    every token of a sequence reaches it once and in order."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.stored: dict[int, int] = {}  # slot -> token
        self.steps: list[list[int]] = []

    def forward(self, batch: Batch) -> Any:
        logits = np.zeros((batch.num_sequences, VOCAB), np.float32)
        self.stored.update(zip(batch.slots.tolist(), batch.token_ids.tolist(), strict=True))
        self.steps.append(np.diff(batch.query_starts).tolist())
        for row, length in enumerate(batch.context_lengths):
            table = batch.block_tables[row]
            slots = [int(table[p // self.block_size]) * self.block_size + p % self.block_size for p in range(length)]
            logits[row, sum(self.stored[slot] for slot in slots) % 48] = 1.0
        return logits


def answer(prompt: Sequence[int], max_tokens: int = 5, *, context_length: int = 64, **options: Any) -> Answer:
    return Answer(
        prompt,
        SamplingOptions(max_tokens=max_tokens, **options),
        stop_ids=frozenset([END, 7]),
        context_length=context_length,
        detokenizer=None,
    )


def foretold(prompt: Sequence[int], max_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(sum(tokens) % 48)
        if tokens[-1] == 7:
            break
    return tokens[len(prompt) :]


@given(
    prompts=st.lists(st.lists(st.integers(0, 48), min_size=1, max_size=30), min_size=1, max_size=7),
    max_tokens=st.integers(1, 12),
    batch_size=st.integers(1, 4),
    step_tokens=st.integers(1, 40),
)
def test_every_answer_is_the_one_it_would_get_alone(
    prompts: list[list[int]], max_tokens: int, batch_size: int, step_tokens: int
) -> None:
    cache = SequencePlanner(FreeBlocks(40), block_size=4)
    model = Arithmetic(4)
    answers = [answer(prompt, max_tokens) for prompt in prompts]
    completions: dict[int, Completion] = {}
    streamed: dict[int, list[int]] = {index: [] for index in range(len(prompts))}
    for index, piece in run_answers(answers, model.forward, cache, batch_size=batch_size, step_tokens=step_tokens):
        streamed[index].append(piece.token_id)
        if piece.completion is not None:
            completions[index] = piece.completion
    for index, prompt in enumerate(prompts):
        expected = foretold(prompt, max_tokens)
        assert streamed[index] == expected
        assert list(completions[index].token_ids) == expected
        assert completions[index].finish_reason == ("stop" if expected[-1] == 7 else "length")
        assert completions[index].usage.prompt_tokens == len(prompt)
    assert cache.num_free_blocks == 40
    assert all(len(step) <= batch_size and sum(step) <= max(step_tokens, len(step)) for step in model.steps)


def test_a_finished_row_leaves_and_a_waiting_one_takes_its_place() -> None:
    model = Arithmetic(4)
    answers = [answer([1], 2), answer([2, 3], 4), answer([4, 5, 6], 1)]
    list(
        run_answers(answers, model.forward, SequencePlanner(FreeBlocks(40), block_size=4), batch_size=2, step_tokens=16)
    )
    assert [sorted(step) for step in model.steps] == [[1, 2], [1, 1], [1, 3], [1]]


def test_newest_tokens_go_before_long_prompts() -> None:
    model = Arithmetic(4)
    answers = [answer(list(range(10, 30)), 1), answer([1], 6)]
    list(
        run_answers(answers, model.forward, SequencePlanner(FreeBlocks(40), block_size=4), batch_size=2, step_tokens=8)
    )
    assert model.steps == [[1, 7], [1, 7], [1, 6], [1], [1], [1]]


def test_a_full_cache_makes_answers_wait() -> None:
    cache = SequencePlanner(FreeBlocks(4), block_size=4)
    model = Arithmetic(4)
    pieces = list(
        run_answers(
            [answer([1], 7), answer([2], 7), answer([3], 7)], model.forward, cache, batch_size=3, step_tokens=16
        )
    )
    assert max(len(step) for step in model.steps) == 2
    assert sum(piece.completion is not None for _, piece in pieces) == 3
    with pytest.raises(ResourceError, match="5 are needed"):
        list(run_answers([answer([1], 17)], model.forward, cache, batch_size=3, step_tokens=16))
    assert cache.num_free_blocks == 4


def test_closing_early_gives_the_cache_back() -> None:
    cache = SequencePlanner(FreeBlocks(8), block_size=4)
    run = run_answers([answer([1], 7), answer([2], 7)], Arithmetic(4).forward, cache, batch_size=2, step_tokens=16)
    next(run)
    assert cache.num_free_blocks == 4
    run.close()
    assert cache.num_free_blocks == 8


def test_a_failing_step_gives_the_cache_back() -> None:
    cache = SequencePlanner(FreeBlocks(8), block_size=4)

    def fail(batch: Batch) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_answers([answer([1], 7)], fail, cache, batch_size=2, step_tokens=16))
    assert cache.num_free_blocks == 8


def test_the_context_ends_an_answer_and_ignore_eos_goes_on() -> None:
    cache = SequencePlanner(FreeBlocks(8), block_size=4)

    def run(one: Answer) -> Completion:
        *_, (_, last) = run_answers([one], Arithmetic(4).forward, cache, batch_size=1, step_tokens=16)
        assert last.completion is not None
        return last.completion

    full = run(answer([1, 1, 1], 100, context_length=6))
    assert (full.finish_reason, full.usage.completion_tokens) == ("length", 3)
    assert run(answer([3, 4], 4)).token_ids == (7,)
    assert run(answer([3, 4], 4, ignore_eos=True)).token_ids == (7, 14, 28, 8)
    assert run(answer([3, 4], 1)).finish_reason == "stop"


def test_time_is_counted_as_prefill_until_the_first_token() -> None:
    one = answer([1, 2], 3)
    one.spend(5.0)
    one.spend(1.0)
    one.advance(np.eye(VOCAB, dtype=np.float32)[3])
    one.spend(2.0)
    one.advance(np.eye(VOCAB, dtype=np.float32)[3])
    one.spend(2.0)
    last = one.advance(np.eye(VOCAB, dtype=np.float32)[3])
    assert last.completion is not None
    assert (last.completion.timings.prefill_seconds, last.completion.timings.decode_seconds) == (6.0, 4.0)
    assert last.completion.prefill_tokens_per_second == pytest.approx(2 / 6)
    assert last.completion.decode_tokens_per_second == pytest.approx(2 / 4)


def test_prompts_without_room_are_refused_with_the_numbers() -> None:
    check_room(63, 64)
    with pytest.raises(
        UsageError, match=r"has 64 tokens and the context holds 64, .* shorten the prompt by at least 1 "
    ):
        check_room(64, 64)
    with pytest.raises(UsageError, match=r"has 100 tokens and the context holds 64, .* by at least 37 tokens"):
        answer([1] * 100)
    with pytest.raises(UsageError, match="the prompt has no tokens"):
        answer([])
    with pytest.raises(UsageError, match="stop strings need a tokenizer"):
        answer([1], stop=("x",))
