"""A queue that is fair by tokens: whoever has been served fewest goes first.

Every owner has a counter of the tokens that were computed for it (virtual token counters; Sheng et al., "Fairness in
Serving Large Language Models", 2024). An owner that comes back after a pause starts level with the least served of
those that wait or run, so that nobody saves up a right to starve others. Within one owner's requests priority and
arrival decide. It knows neither clocks nor engines.
"""

import heapq
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_IDLE_OWNERS = 4096


@dataclass(kw_only=True, slots=True)
class _Owner(Generic[T]):
    served: float = 0.0
    running: int = 0
    waiting: list[tuple[int, int, T]] = field(default_factory=list)  # a heap

    @property
    def is_active(self) -> bool:
        return bool(self.waiting) or self.running > 0


class FairQueue(Generic[T]):
    """Items of several owners."""

    def __init__(self) -> None:
        self._owners: dict[str, _Owner[T]] = {}
        self._arrivals = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, owner: str, item: T, *, priority: int = 0) -> None:
        """Put an item behind those of its owner with the same priority; smaller goes first."""
        entry = self._owners.get(owner)
        if entry is None or not entry.is_active:
            level = min((one.served for one in self._owners.values() if one.is_active), default=0.0)
            entry = self._owners.setdefault(owner, _Owner())
            entry.served = max(entry.served, level)
        heapq.heappush(entry.waiting, (priority, self._arrivals, item))
        self._arrivals += 1
        self._length += 1

    def pop(self) -> T | None:
        """The next item, which counts as running from now on; None when none waits."""
        waiting = [one for one in self._owners.values() if one.waiting]
        if not waiting:
            return None
        owner = min(waiting, key=lambda one: (one.served, one.waiting[0][1]))
        owner.running += 1
        self._length -= 1
        return heapq.heappop(owner.waiting)[2]

    def waiting(self) -> dict[str, int]:
        """How many items of each owner wait; owners without any are left out."""
        return {name: len(one.waiting) for name, one in self._owners.items() if one.waiting}

    def serve(self, owner: str, tokens: float) -> None:
        """Count tokens that were computed for an owner."""
        entry = self._owners.get(owner)
        if entry is not None:
            entry.served += tokens

    def end(self, owner: str) -> None:
        """A running item of this owner has ended."""
        entry = self._owners[owner]
        entry.running -= 1
        self._forget_idle()

    def remove(self, owner: str, item: T) -> bool:
        """Take a waiting item out; whether it was there."""
        entry = self._owners.get(owner)
        if entry is None:
            return False
        for place, (_, _, waiting) in enumerate(entry.waiting):
            if waiting is item:
                del entry.waiting[place]
                heapq.heapify(entry.waiting)
                self._length -= 1
                self._forget_idle()
                return True
        return False

    def _forget_idle(self) -> None:
        """Owners are API keys, of which there are few; still, their number has a bound."""
        if len(self._owners) > MOST_IDLE_OWNERS:
            for name in [name for name, one in self._owners.items() if not one.is_active]:
                del self._owners[name]
