"""A timeline says where the time went, to nobody but the owner, in bounded memory and without a word of the text."""

import json

import pytest
from support import serving_events as events

from flyweight.serving.timeline import MOST_CHUNKS, Timelines


@pytest.fixture
def timelines():
    return Timelines(clock=lambda: 110.0, wall_clock=lambda: 1_800_000_010.0, most_requests=8)


def the_answer(timelines, request="r1", owner=""):
    found = timelines.find(request, owner=owner)
    return found["answers"][0]


def test_a_request_from_queue_to_end(timelines):
    one, other = events.name("r1"), events.name("r2")
    timelines.on_submitted(events.submitted("r1", prompts=(20,)))
    timelines.on_step(events.step(7, 101.0, 101.5, [events.chunk(one, 4, 10, found=1), events.chunk(other, 9, 1)]))
    timelines.on_step(events.step(8, 101.5, 102.0, [events.chunk(one, 14, 6)], [(one, 1)]))
    timelines.on_step(events.step(9, 102.0, 103.0, [events.chunk(one, 20, 1), events.chunk(other, 10, 1)], [(one, 1)]))
    timelines.on_step(events.step(10, 103.0, 104.0, [events.chunk(one, 21, 4, drafts=3)], [(one, 3)]))
    end = events.record(prompt_tokens=20, cached_tokens=4)
    timelines.on_finished(events.finished(one, of_record=end))
    found = timelines.find("r1", owner="")
    assert found["id"] == "r1"
    assert found["created"] == 1_800_000_000.0
    (answer,) = found["answers"]
    assert [(one["step"], one["tokens"], one["batch_size"], one["seconds"]) for one in answer["chunks"]] == [
        (7, 10, 2, 0.5),
        (8, 6, 1, 0.5),
    ]
    expected = {
        "state": "ended",
        "outcome": "stop",
        "queue_seconds": 1.0,
        "prefill_seconds": 1.0,
        "decode_seconds": 2.0,
        "total_seconds": 4.0,
        "prompt_tokens": 20,
        "cached_tokens": 4,
        "answer_tokens": 5,
        "speculation": {"proposed": 3, "accepted": 2},
    }
    assert {name: answer[name] for name in expected} == expected
    assert answer["decode"]["steps"] == 2
    assert answer["decode"]["mean_batch_size"] == 1.5
    assert (answer["decode"]["smallest_batch_size"], answer["decode"]["largest_batch_size"]) == (1, 2)
    json.dumps(found)


def test_one_that_still_waits_and_one_that_runs(timelines):
    timelines.on_submitted(events.submitted("r1"))
    assert the_answer(timelines)["state"] == "waiting"
    assert the_answer(timelines)["queue_seconds"] == 10.0
    timelines.on_step(events.step(1, 103.0, 104.0, [events.chunk(events.name("r1"), 0, 3)]))
    assert the_answer(timelines)["state"] == "running"
    assert the_answer(timelines)["queue_seconds"] == 3.0
    assert the_answer(timelines)["prefill_seconds"] == 7.0


def test_only_the_owner_may_read(timelines):
    timelines.on_submitted(events.submitted("r1", owner="alice"))
    assert timelines.find("r1", owner="alice") is not None
    assert timelines.find("r1", owner="bob") is None
    assert timelines.find("r1", owner="") is None
    assert timelines.find("r2", owner="alice") is None


def test_who_it_waited_for_names_only_its_own(timelines):
    for request, owner in (("a1", "alice"), ("a2", "alice"), ("b1", "bob"), ("b2", "bob"), ("late", "bob")):
        timelines.on_submitted(events.submitted(request, owner=owner))
    other_model = events.submitted("elsewhere", owner="alice", model="other")
    timelines.on_submitted(other_model)
    running = [events.chunk(events.name(request), 0, 1) for request in ("a2", "b1", "b2", "elsewhere")]
    timelines.on_step(events.step(1, 100.5, 101.0, running))
    timelines.on_finished(
        events.finished(events.name("b2"), owner="bob", ended_at=101.0, of_record=events.record(began=100.5))
    )
    timelines.on_step(events.step(2, 102.0, 103.0, [events.chunk(events.name("a1"), 0, 1)]))
    timelines.on_step(events.step(3, 103.0, 104.0, [events.chunk(events.name("late"), 0, 1)]))
    assert the_answer(timelines, "a1", "alice")["waited_for"] == {"own": ["a2"], "others": 2}
    told = json.dumps(timelines.find("a1", owner="alice"))
    assert "b1" not in told
    assert "bob" not in told


def test_preemptions(timelines):
    one = events.name("r1")
    timelines.on_submitted(events.submitted("r1"))
    timelines.on_step(events.step(1, 101, 102, [events.chunk(one, 0, 5)], [(one, 1)]))
    timelines.on_step(events.step(2, 102, 103, [], preempted=[one]))
    timelines.on_step(events.step(3, 103, 104, [events.chunk(one, 0, 6)], [(one, 1)]))
    answer = the_answer(timelines)
    assert answer["preemptions"] == 1
    assert answer["preempted_before_steps"] == [2]
    assert [one["tokens"] for one in answer["chunks"]] == [5, 6]


def test_several_prompts_and_samples(timelines):
    timelines.on_submitted(events.submitted("r1", prompts=(3, 4), samples=2))
    timelines.on_finished(events.finished(events.name("r1", 1, 1), outcome="length"))
    answers = timelines.find("r1", owner="")["answers"]
    assert [(one["prompt"], one["sample"], one["prompt_tokens"], one["outcome"]) for one in answers] == [
        (0, 0, 3, None),
        (0, 1, 3, None),
        (1, 0, 4, None),
        (1, 1, 4, "length"),
    ]


def test_memory_is_bounded(timelines):
    for number in range(30):
        timelines.on_submitted(events.submitted(f"r{number}"))
    assert len(timelines) == 30, "those that run are never forgotten"
    for number in range(30):
        timelines.on_finished(events.finished(events.name(f"r{number}"), of_record=None, outcome="timeout"))
    assert len(timelines) == 8
    assert timelines.find("r0", owner="") is None
    assert the_answer(timelines, "r29")["outcome"] == "timeout"
    one = events.name("long")
    timelines.on_submitted(events.submitted("long"))
    for number in range(1000):
        timelines.on_step(events.step(number, 101, 102, [events.chunk(one, number, 2)]))
    answer = the_answer(timelines, "long")
    assert len(answer["chunks"]) == MOST_CHUNKS
    assert answer["chunks_not_shown"] == 1000 - MOST_CHUNKS


def test_news_of_the_unknown_are_no_fault(timelines):
    one = events.name("never heard of")
    timelines.on_step(events.step(1, 0, 1, [events.chunk(one, 0, 1)], [(one, 1)], preempted=[one]))
    timelines.on_finished(events.finished(one))
    assert len(timelines) == 0
