"""What tests of a running server share: waiting for something to become true, and an observer that keeps everything."""

import time
from collections.abc import Callable
from typing import Any


def wait_until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Return as soon as ``condition`` holds.

    Raises:
        TimeoutError: when it does not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"it did not happen within {seconds:g} s")
        time.sleep(0.01)


class Recorder:
    """An observer that keeps every event."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def on_submitted(self, event: Any) -> None:
        self.events.append(event)

    on_rejected = on_compiled = on_step = on_finished = on_submitted

    def named(self, name: str) -> list[Any]:
        """The events of one type, in order."""
        return [event for event in self.events if type(event).__name__ == name]
