"""What a parser of tool calls tells while the text of an answer comes in."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

NewId = Callable[[], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ContentDelta:
    """Text that is part of no call."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCallDelta:
    """News of the ``index``-th call of the answer. The first of each call has its id and name; ``arguments`` is the
    next piece of their JSON text."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


Delta = ContentDelta | ToolCallDelta


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeCall:
    """A call with all that came of it."""

    id: str
    name: str
    arguments: str


class ToolParser(Protocol):
    """Finds calls in the text of one answer. However the text is cut into pieces, what comes out is the same. What was
    begun like a call and is none comes out as text."""

    def push(self, text: str) -> list[Delta]:
        """What further text settles."""
        ...

    def finish(self) -> list[Delta]:
        """The text has ended: what was held back."""
        ...


class Deltas:
    """Deltas as they are collected; neighbours of one kind are joined."""

    def __init__(self) -> None:
        self._found: list[Delta] = []
        self._pieces: list[str] = []  # of the last delta, which is of text, or of arguments of the call ``_open``
        self._open: ToolCallDelta | None = None

    def text(self, text: str) -> None:
        if text:
            if self._open is not None:
                self._close()
            self._pieces.append(text)

    def call(self, index: int, call_id: str, name: str) -> None:
        self._close()
        self._open = ToolCallDelta(index=index, id=call_id, name=name)

    def arguments(self, index: int, text: str) -> None:
        if text:
            if self._open is None or self._open.index != index:
                self._close()
                self._open = ToolCallDelta(index=index)
            self._pieces.append(text)

    def take(self) -> list[Delta]:
        self._close()
        found, self._found = self._found, []
        return found

    def _close(self) -> None:
        text = "".join(self._pieces)
        if self._open is not None:
            self._found.append(replace(self._open, arguments=text))
        elif text:
            self._found.append(ContentDelta(text=text))
        self._open, self._pieces = None, []


def joined(deltas: Iterable[Delta]) -> tuple[str, list[WholeCall]]:
    """The text and the calls that deltas add up to."""
    texts: list[str] = []
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        if isinstance(delta, ContentDelta):
            texts.append(delta.text)
            continue
        call = calls.setdefault(delta.index, ["", "", ""])
        for place, piece in enumerate((delta.id or "", delta.name or "", delta.arguments)):
            call[place] += piece
    return "".join(texts), [WholeCall(id=one[0], name=one[1], arguments=one[2]) for one in calls.values()]
