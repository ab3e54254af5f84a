"""The pager keeps the first weights, sends the others away in the order of their use, and never exceeds its ceiling."""

from types import SimpleNamespace
from typing import Any

import pytest

from flyweight.errors import ResourceError
from flyweight.runtime import pager as module
from flyweight.runtime.pager import Pager

SIZE = 100 * 4096


class Mapped:
    """Remembers which pages are present: all that were used and not sent away."""

    def __init__(self) -> None:
        self.present: set[int] = set()

    def madvise(self, _: int, begin: int, nbytes: int) -> None:
        assert begin % 4096 == 0
        self.present -= set(range(begin // 4096, (begin + nbytes) // 4096))


def make(count: int, ceiling: int, monkeypatch: Any) -> tuple[Pager, Mapped, list[int]]:
    asked: list[int] = []
    monkeypatch.setattr(Pager, "_advise", lambda _, at, advice: asked.append(at))
    mapped = Mapped()
    image: Any = SimpleNamespace(mapped=mapped, descriptor=-1, nbytes=count * SIZE)
    spans = {f"l{i}": (((i * SIZE, SIZE),),) for i in range(count)}
    pager = Pager(image, spans, ceiling=ceiling, drop_cache=False)
    monkeypatch.setattr(pager._reader, "submit", lambda function, *arguments: function(*arguments))
    return pager, mapped, asked


def use(pager: Pager, mapped: Mapped, at: int) -> None:
    pager.use(f"l{at}", 0)
    mapped.present |= set(range(at * 100, (at + 1) * 100))


def test_the_first_stay_and_the_others_come_and_go(monkeypatch: Any) -> None:
    pager, mapped, asked = make(12, 7 * SIZE, monkeypatch)
    assert (pager.resident_bytes, pager.streamed_bytes) == (4 * SIZE, 8 * SIZE)
    for step in range(3):
        for at in range(12):
            use(pager, mapped, at)
            assert len(mapped.present) * 4096 <= 7 * SIZE
            assert step == 0 or set(range(400)) <= mapped.present
            assert asked[-1] == (max(at + 1, 4) if at < 11 else 4)  # what comes next has been asked for


def test_all_stay_where_there_is_room(monkeypatch: Any) -> None:
    pager, mapped, asked = make(5, 5 * SIZE, monkeypatch)
    for at in range(5):
        use(pager, mapped, at)
    assert (pager.streamed_bytes, asked, len(mapped.present)) == (0, [], 500)


def test_a_ceiling_below_the_window_is_refused(monkeypatch: Any) -> None:
    with pytest.raises(ResourceError, match="too little"):
        make(5, 3 * SIZE - 1, monkeypatch)


def test_a_group_used_twice_is_counted_once(monkeypatch: Any) -> None:
    pager, mapped, _ = make(6, 3 * SIZE, monkeypatch)
    for at in (0, 0, 0, 0, 1, 1):
        use(pager, mapped, at)
    assert len(mapped.present) == 200


def test_windows_hold_several_pieces() -> None:
    assert module.PIECES_IN_CEILING > module.WINDOW_PIECES
