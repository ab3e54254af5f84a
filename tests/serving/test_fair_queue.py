"""Whoever was served fewest tokens goes first; a pause earns nothing."""

from flyweight.serving.fair_queue import FairQueue


def test_one_owner_is_served_in_order():
    queue = FairQueue()
    for item in "abc":
        queue.push("one", item)
    assert [queue.pop() for _ in range(4)] == ["a", "b", "c", None]


def test_priority_orders_within_an_owner():
    queue = FairQueue()
    queue.push("one", "later", priority=1)
    queue.push("one", "sooner", priority=0)
    assert queue.pop() == "sooner"


def test_priority_does_not_pass_other_owners():
    queue = FairQueue()
    queue.push("a", "a1", priority=5)
    queue.push("b", "b1", priority=-100)
    assert queue.pop() == "a1"


def test_tokens_decide_between_owners():
    queue = FairQueue()
    for number in range(6):
        queue.push("flood", f"f{number}")
    queue.push("guest", "g0")
    assert queue.pop() == "f0"
    queue.serve("flood", 100)
    assert queue.pop() == "g0"
    queue.serve("guest", 500)
    assert queue.pop() == "f1"


def test_a_pause_earns_nothing():
    queue = FairQueue()
    queue.push("busy", "b0")
    assert queue.pop() == "b0"
    queue.serve("busy", 1000)
    queue.push("busy", "b1")
    queue.push("back", "x0")
    assert queue.pop() == "b1"  # level with the newcomer, and earlier


def test_a_waiting_item_can_be_taken_out():
    queue = FairQueue()
    items = [object(), object()]
    for item in items:
        queue.push("one", item)
    assert queue.remove("one", items[0])
    assert not queue.remove("one", items[0])
    assert len(queue) == 1
    assert queue.pop() is items[1]
