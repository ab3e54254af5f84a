"""Bounds of the queue, what leaves it, and the time after which to come again."""

import pytest

from flyweight.serving.admission import LOOKAHEAD, Admission, Ticket
from flyweight.serving.api_errors import ApiError
from flyweight.serving.limits import ServerLimits


def ticket(owner="", prompt_tokens=10, max_tokens=10, samples=1):
    return Ticket(owner=owner, prompt_tokens=prompt_tokens, max_tokens=max_tokens, samples=samples)


def test_only_what_the_engine_has_room_for_leaves():
    admission = Admission(ServerLimits(), max_sequences=2)
    tickets = [ticket() for _ in range(10)]
    admission.offer(tickets, now=0.0)
    assert admission.release(0, now=1.0) == tickets[: 2 + LOOKAHEAD]
    assert admission.release(0, now=1.0) == []
    admission.end_answer(tickets[0])
    admission.end(tickets[0], 5)
    assert admission.release(LOOKAHEAD, now=2.0) == []  # the engine cannot begin what it has
    assert admission.release(0, now=2.0) == [tickets[4]]
    assert tickets[4].released_at == 2.0


def test_a_full_queue_refuses_with_503_and_takes_nothing():
    admission = Admission(ServerLimits(queued_requests=3), max_sequences=1)
    admission.offer([ticket(), ticket()], now=0.0)
    with pytest.raises(ApiError, match="2 requests wait and 3 may") as caught:
        admission.offer([ticket(), ticket()], now=0.0)
    assert caught.value.status == 503
    assert caught.value.code == "queue_full"
    assert admission.queued == 2


def test_one_key_cannot_fill_it():
    admission = Admission(ServerLimits(requests_per_key=2), max_sequences=1)
    admission.offer([ticket("a"), ticket("a")], now=0.0)
    with pytest.raises(ApiError, match="this API key has 2 of 2 requests open") as caught:
        admission.offer([ticket("a")], now=0.0)
    assert caught.value.status == 429
    assert int(caught.value.headers["Retry-After"]) >= 1
    admission.offer([ticket("b")], now=0.0)


def test_tokens_of_one_key_are_bounded_but_a_single_request_passes():
    admission = Admission(ServerLimits(tokens_per_key=100), max_sequences=1)
    admission.offer([ticket("a", prompt_tokens=500)], now=0.0)
    with pytest.raises(ApiError, match="510 of 100 tokens"):
        admission.offer([ticket("a", prompt_tokens=1, max_tokens=1)], now=0.0)


def test_retry_after_follows_the_measured_rate():
    admission = Admission(ServerLimits(queued_requests=4), max_sequences=1)
    tickets = [ticket(prompt_tokens=100) for _ in range(4)]
    admission.offer(tickets, now=0.0)
    for second in range(11):
        admission.serve(tickets[0], 10, now=float(second))
    assert admission.rate.tokens_per_second == pytest.approx(10.0, rel=0.1)
    with pytest.raises(ApiError) as caught:
        admission.offer([ticket()], now=11.0)
    # Half of 400 waiting tokens at about 10 tokens a second.
    assert int(caught.value.headers["Retry-After"]) == pytest.approx(20, abs=2)


def test_who_would_wait_too_long_is_refused_at_once():
    admission = Admission(ServerLimits(queue_seconds=5), max_sequences=1)
    first = ticket(prompt_tokens=100)
    admission.offer([first], now=0.0)
    for second in range(11):
        admission.serve(first, 10, now=float(second))
    with pytest.raises(ApiError, match="it would wait about"):
        admission.offer([ticket()], now=11.0)


def test_a_withdrawn_ticket_leaves_nothing_behind():
    admission = Admission(ServerLimits(requests_per_key=1), max_sequences=1)
    one = ticket("a")
    admission.offer([one], now=0.0)
    assert admission.withdraw(one)
    assert not admission.withdraw(one)
    assert admission.queued == 0
    admission.offer([ticket("a")], now=0.0)


def test_closed_it_takes_nothing():
    admission = Admission(ServerLimits(), max_sequences=1)
    admission.close()
    assert not admission.has_room
    with pytest.raises(ApiError, match="shutting down"):
        admission.offer([ticket()], now=0.0)
