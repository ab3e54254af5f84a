"""The thread that asks constraints for their masks while the forward pass runs.

One for each engine, started when a request first has a constraint. A constraint that takes too long is given up with
its request, and a fresh thread goes on with the others. It knows no tokens.
"""

import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Lock, Thread

from flyweight.engine.constraint import AllowedTokens, AnswerConstraint
from flyweight.errors import FlyweightError

MASK_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskWanted:
    """A constraint whose masks a step needs, for its newest token and each of ``drafts``."""

    constraint: AnswerConstraint
    drafts: tuple[int, ...]


@dataclass(kw_only=True, slots=True)
class _Round:
    """The masks of one step in the making: ``found`` as far as they are, ``place`` is the one being made, which only
    changes under ``lock``."""

    wanted: Sequence[MaskWanted]
    found: list[AllowedTokens | None]
    place: int = 0
    seconds: float = 0.0
    is_abandoned: bool = False
    lock: Lock = field(default_factory=Lock)
    done: Event = field(default_factory=Event)


class MaskWorker:
    """Makes masks beside the engine's own thread.

    Args:
        most_seconds: for the masks of one request in one step; one that takes longer is given up.

    Attributes:
        seconds: that masks have taken in all; ``wait_seconds`` of them the engine has waited for.
    """

    def __init__(self, *, most_seconds: float = MASK_SECONDS) -> None:
        self.seconds = self.wait_seconds = 0.0
        self._most_seconds = most_seconds
        self._rounds: SimpleQueue[_Round | None] | None = None

    def start(self, wanted: Sequence[MaskWanted]) -> "PendingMasks":
        """Begin to make masks; ask for them when they are needed."""
        return PendingMasks(self, self._begin(wanted))

    def _begin(self, wanted: Sequence[MaskWanted]) -> _Round:
        started = _Round(wanted=wanted, found=[None] * len(wanted))
        if self._rounds is None:
            self._rounds = SimpleQueue()
            Thread(target=_work, args=(self._rounds,), name="flyweight-masks", daemon=True).start()
            weakref.finalize(self, self._rounds.put, None)
        self._rounds.put(started)
        return started

    def _wait(self, started: _Round) -> list[AllowedTokens | None]:
        began = time.perf_counter()
        last = -1
        while not started.done.wait(self._most_seconds):
            with started.lock:
                place = started.place
                started.is_abandoned = place == last
            if started.is_abandoned:
                return self._abandon(started, place, began)
            last = place
        self.seconds += started.seconds
        self.wait_seconds += time.perf_counter() - began
        return started.found

    def _abandon(self, started: _Round, place: int, began: float) -> list[AllowedTokens | None]:
        """Leave the thread alone with what it cannot finish, and make the rest on a fresh one."""
        self._rounds = None
        started.wanted[place].constraint.fail(
            FlyweightError(
                f"the masks of this request's constraint took more than {self._most_seconds:g} s in one step; simplify "
                "the grammar"
            )
        )
        self.wait_seconds += time.perf_counter() - began
        rest = self._wait(self._begin(started.wanted[place + 1 :]))
        return [*started.found[:place], None, *rest]


class PendingMasks:
    """Masks in the making."""

    def __init__(self, worker: MaskWorker, started: _Round) -> None:
        self._worker = worker
        self._started = started

    def collect(self) -> list[AllowedTokens | None]:
        """The masks in the order they were asked for, None where a constraint has failed; waits for them."""
        return self._worker._wait(self._started)


def _work(rounds: "SimpleQueue[_Round | None]") -> None:
    while (current := rounds.get()) is not None:
        began = time.perf_counter()
        for place, one in enumerate(current.wanted):
            found = one.constraint.allowed(one.drafts)
            with current.lock:
                if current.is_abandoned:
                    return
                current.found[place] = found
                current.place = place + 1
        current.seconds = time.perf_counter() - began
        current.done.set()
