"""Responses that are kept for those who ask for them again, or go on from them, and those that are being made.

What is kept is bounded in number and bytes; the oldest give way. Each response belongs to the key that made it: others
do not find it.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

MOST_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredResponse:
    """A response as it was sent, and the conversation up to and with it."""

    body: dict[str, Any]
    messages: list[dict[str, Any]]
    nbytes: int


class StoredResponses:
    """At most ``most`` responses."""

    def __init__(self, most: int, *, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[str, str], StoredResponse] = OrderedDict()
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, owner: str, name: str, response: StoredResponse) -> None:
        """Keep a response."""
        self._kept[owner, name] = response
        self._nbytes += response.nbytes
        while self._kept and (len(self._kept) > self._most or self._nbytes > self._most_bytes):
            _, oldest = self._kept.popitem(last=False)
            self._nbytes -= oldest.nbytes

    def get(self, owner: str, name: str) -> StoredResponse | None:
        """The response of this name, if this owner has one."""
        return self._kept.get((owner, name))

    def remove(self, owner: str, name: str) -> bool:
        """Forget a response; whether there was one."""
        found = self._kept.pop((owner, name), None)
        if found is None:
            return False
        self._nbytes -= found.nbytes
        return True


class RunningResponse(Protocol):
    """A response that is being made, as others than its own stream may see it."""

    def so_far(self) -> dict[str, Any]:
        """The response as it stands."""
        ...

    def cancel(self) -> dict[str, Any]:
        """End it here, and the response that is left; its blocks are free after the engine's present step."""
        ...


class RunningResponses:
    """Those whose names are told before they end, which are those that are streamed."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], RunningResponse] = {}

    def __len__(self) -> int:
        return len(self._running)

    def put(self, owner: str, name: str, response: RunningResponse) -> None:
        """A response has begun."""
        self._running[owner, name] = response

    def get(self, owner: str, name: str) -> RunningResponse | None:
        """The running response of this name, if this owner has one."""
        return self._running.get((owner, name))

    def remove(self, owner: str, name: str) -> None:
        """A response has ended."""
        self._running.pop((owner, name), None)
