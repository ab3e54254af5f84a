"""The figures of a task from the moments of its tokens, and the prompts it draws."""

import pytest

from flyweight.bench.tasks import TASKS, OneStream, Prompts, decode_figures, find_task, prefill_figures, stream_figures
from flyweight.errors import UsageError


def test_prefill_is_tokens_by_the_time_to_the_first_token() -> None:
    assert prefill_figures(512, 2.0) == {"prefill": 256.0}


def test_decode_leaves_the_first_token_to_the_prompt() -> None:
    assert decode_figures([5.0, 5.5, 6.0, 7.0]) == {"decode": 1.5}


def test_streams_count_tokens_until_the_last_stream_ends() -> None:
    found = stream_figures([[1.0, 2.0, 3.0], [2.0, 4.0, 8.0]])
    assert found == {"output": 6 / 8, "mean TTFT": 1.5, "worst TTFT": 2.0, "mean TPOT": 2.0}


def test_prompts_are_new_each_time_and_the_same_in_each_run() -> None:
    first, second = Prompts(32000), Prompts(32000)
    drawn = [first.draw(300), first.draw(300)]
    assert drawn[0] != drawn[1]
    assert drawn == [second.draw(300), second.draw(300)]
    assert 1000 <= min(drawn[0]) < max(drawn[0]) < 32000


def test_prompts_fit_a_small_vocabulary() -> None:
    assert 0 <= min(Prompts(128).draw(200)) < max(Prompts(128).draw(200)) < 128


def test_a_cache_holds_what_its_task_needs() -> None:
    for task in TASKS.values():
        assert task.cache_tokens >= task.longest
    deep = find_task("depth-4096")
    assert isinstance(deep, OneStream)
    assert deep.cache_tokens >= 4096 + 512 + 65


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'streams-8'"):
        find_task("stream-8")
