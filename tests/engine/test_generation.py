"""Answers as text: pieces, stop strings across tokens and events, and the reader that shares one engine."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from flyweight.engine.engine import Engine
from flyweight.engine.generation import Answer, Asked, Completion, Reader, TextPiece
from flyweight.engine.request import Event, Request, RequestRecord, check_room
from flyweight.engine.sampling import SamplingOptions
from flyweight.engine.scheduler import StepBudget
from flyweight.errors import UsageError
from tests.support.foretold import END, Foretold, foretold

RECORD = RequestRecord(
    arrived=0.0,
    began=1.0,
    first_token=2.0,
    finished=3.0,
    prefill_seconds=6.0,
    decode_seconds=4.0,
    prompt_tokens=20,
    answer_tokens=5,
    cached_tokens=8,
    preemptions=0,
    draft_tokens=0,
    accepted_tokens=0,
)


class Letters:
    """A detokenizer whose token 0 is a, 1 is b; every second token is held until the next one comes."""

    def __init__(self) -> None:
        self.held = ""

    def push(self, token: int) -> str:
        self.held += chr(97 + token)
        if token % 2:
            return ""
        text, self.held = self.held, ""
        return text

    def finish(self) -> str:
        text, self.held = self.held, ""
        return text


def read(answer: Answer, *events: Event) -> list[tuple[str, int]]:
    return [piece for event in events for piece in answer.read(event)]


def test_text_comes_when_it_is_certain_and_all_of_it_at_the_end() -> None:
    answer = Answer((), Letters())  # type: ignore[arg-type]
    events = [Event(id=0, token_ids=(0, 1)), Event(id=0, token_ids=(2, 3), reason="length", record=RECORD)]
    assert read(answer, *events) == [("a", 0), ("", 1), ("bc", 2), ("d", 3)]
    done = answer.complete(RECORD)
    assert (done.text, done.token_ids, done.finish_reason, done.stop_string) == ("abcd", (0, 1, 2, 3), "length", None)


def test_an_end_token_has_no_text() -> None:
    answer = Answer((), Letters())  # type: ignore[arg-type]
    assert read(answer, Event(id=0, token_ids=(1, 4), reason="stop", record=RECORD)) == [("", 1), ("b", 4)]
    assert answer.complete(RECORD).finish_reason == "stop"


def test_a_stop_string_ends_an_answer_inside_an_event() -> None:
    answer = Answer(("cde",), Letters())  # type: ignore[arg-type]
    pieces = read(answer, Event(id=0, token_ids=(0, 2)), Event(id=0, token_ids=(3, 4, 5, 6)))
    assert pieces == [("a", 0), ("", 2), ("", 3), ("", 4)]
    assert answer.is_finished
    done = answer.complete(RECORD)
    assert (done.text, done.token_ids, done.stop_string) == ("a", (0, 2, 3, 4), "cde")
    assert done.usage.completion_tokens == 4


def test_what_is_held_may_complete_a_stop_string_at_the_end() -> None:
    answer = Answer(("ab",), Letters())  # type: ignore[arg-type]
    assert read(answer, Event(id=0, token_ids=(0, 1), reason="length", record=RECORD)) == [("", 0), ("", 1)]
    assert answer.complete(RECORD).finish_reason == "stop"


def test_speeds_count_what_was_computed() -> None:
    answer = Answer((), None)
    read(answer, Event(id=0, token_ids=(1, 2, 3, 4, 5), reason="length", record=RECORD))
    done = answer.complete(RECORD)
    assert (done.usage.prompt_tokens, done.usage.cached_tokens) == (20, 8)
    assert done.prefill_tokens_per_second == pytest.approx(12 / 6)
    assert done.decode_tokens_per_second == pytest.approx(4 / 4)


def test_stop_strings_need_a_tokenizer() -> None:
    with pytest.raises(UsageError, match="stop strings need a tokenizer"):
        Answer(("x",), None)


def make_engine(num_blocks: int = 20) -> Engine:
    return Engine(
        Foretold(4).forward,
        num_blocks=num_blocks,
        block_size=4,
        budget=StepBudget(tokens=16, sequences=2),
        context_length=64,
    )


def asked(prompt: Sequence[int], max_tokens: int = 5, *, samples: int = 1, **options: Any) -> Asked:
    request = Request(
        token_ids=tuple(prompt),
        options=SamplingOptions(max_tokens=max_tokens, **options),
        stop_ids=frozenset([END]),
    )
    return Asked(request=request, answers=[Answer((), None) for _ in range(samples)])


def completions(pieces: Iterator[tuple[int, TextPiece]]) -> dict[int, Completion]:
    return {place: piece.completion for place, piece in pieces if piece.completion is not None}


def test_a_reader_gives_every_answer_its_place() -> None:
    reader = Reader(make_engine())
    prompts = [[1, 2, 3], [4, 5], [1, 2, 3, 4, 5, 6], [9]]
    done = completions(reader.run([asked(prompts[0]), asked(prompts[1], samples=2), *map(asked, prompts[2:])]))
    expected = [prompts[0], prompts[1], prompts[1], prompts[2], prompts[3]]
    assert [list(done[place].token_ids) for place in range(5)] == [foretold(prompt, 5) for prompt in expected]


def test_two_readings_share_their_steps() -> None:
    reader = Reader(make_engine())
    first, second = reader.run([asked([1, 2, 3], 9)]), reader.run([asked([4, 5], 9)])
    next(first), next(second)
    before = reader.engine.metrics().steps
    rest = completions(first), completions(second)
    assert reader.engine.metrics().steps - before <= 8
    assert list(rest[0][0].token_ids) == foretold([1, 2, 3], 9)
    assert list(rest[1][0].token_ids) == foretold([4, 5], 9)


def test_closing_early_and_failing_give_everything_back() -> None:
    reader = Reader(make_engine())
    run = reader.run([asked([1, 2, 3, 4, 5], 9), asked([2], 9), asked([3], 9)])
    next(run)
    assert reader.engine.metrics().held_blocks > 0
    run.close()  # type: ignore[attr-defined]
    assert not reader.engine.has_work
    assert reader.engine.metrics().held_blocks == 0

    def fail(batch: Any) -> Any:
        raise KeyboardInterrupt

    reader.engine._forward = fail
    with pytest.raises(KeyboardInterrupt):
        list(reader.run([asked([1], 7)]))
    assert not reader.engine.has_work
    with pytest.raises(UsageError, match="no tokens"):
        list(reader.run([asked([1]), asked([])]))
    assert not reader.engine.has_work


def test_news_of_others_is_not_swallowed() -> None:
    reader = Reader(make_engine())
    reader.engine.add(asked([1, 2]).request)
    with pytest.raises(UsageError, match="news of request 0, which was not asked here"):
        list(reader.run([asked([3])]))


def test_prompts_without_room_are_refused_with_the_numbers() -> None:
    check_room(63, 64)
    with pytest.raises(
        UsageError, match=r"has 64 tokens and the context holds 64, .* shorten the prompt by at least 1 "
    ):
        check_room(64, 64)
    with pytest.raises(UsageError, match=r"has 100 tokens and the context holds 64, .* by at least 37 tokens"):
        check_room(100, 64)
    with pytest.raises(UsageError, match="the prompt has no tokens"):
        check_room(0, 64)
