"""Stop strings in a stream of text: what may be the beginning of one waits, none is shown unless that is wanted."""

from collections.abc import Sequence


class StopStrings:
    """Watches text that arrives in pieces. ``matched`` is the stop string that was found, or None.

    The stop string that is complete first wins (of two that end together the longer), as if the text came letter by
    letter: the result does not depend on how it is cut. ``includes`` shows the one that was found, too.
    """

    def __init__(self, stops: Sequence[str], *, includes: bool = False) -> None:
        self._stops = tuple(stops)
        self._includes = includes
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """The text that can be shown now; after a match what lies before it, and then nothing more."""
        if self.matched is not None:
            return ""
        self._held += text
        found = [(place + len(stop), place, stop) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            end, place, self.matched = min(found)
            shown, self._held = self._held[: end if self._includes else place], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
