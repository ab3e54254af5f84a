"""Reads calls of one shape out of a text, character by character.

Decisions depend on what has come and never on what will, so any way to cut the text gives the same. A section that
breaks before a call is certain (its name is known and its arguments have begun) comes out as text from where it began,
or from behind its last complete call; a call that breaks later keeps what was told of it, and what follows is text.
"""

import json
from collections.abc import Callable, Collection

from flyweight.serving.tools.deltas import Delta, Deltas, NewId
from flyweight.serving.tools.object_scanner import SPACES, ObjectScanner, Progress
from flyweight.serving.tools.shape import CallShape

LONGEST_NAME = 256


class ShapeParser:
    """A ``ToolParser`` for one answer.

    Args:
        names: functions that may be called; a call of another is text.
        new_id: names a call.
    """

    def __init__(self, shape: CallShape, names: Collection[str], new_id: NewId) -> None:
        self._shape = shape
        self._names = frozenset(names)
        self._new_id = new_id
        self._out = Deltas()
        self._num_calls = 0
        self._blanks = ""  # of the text so far, which are dropped beside a section
        self._held = ""  # what may be the beginning of an opening
        self._raw: list[str] = []  # of the section, since its beginning or its last complete call
        self._is_told = False  # the present call
        self._is_whole = False  # its arguments
        self._state: Callable[[str], None] = self._in_text
        self._options: list[
            tuple[str, Callable[[], None]]
        ] = []  # the rest of each mark that may come, and what follows it
        if shape.is_opened_by_prompt or shape.at_start:
            self._begin_section("")

    def push(self, text: str) -> list[Delta]:
        for mark in text:
            self._state(mark)
        return self._out.take()

    def finish(self) -> list[Delta]:
        if self._state == self._in_text:
            self._give_blanks(self._held)
        elif not self._is_told and not (self._num_calls and self._state == self._in_mark):
            self._give_blanks("".join(self._raw))
        if not self._num_calls:
            self._out.text(self._blanks)
        return self._out.take()

    # Text

    def _in_text(self, mark: str) -> None:
        opening = self._shape.opening
        if not opening:
            self._give_blanks(mark)
            return
        self._held += mark
        while self._held and not opening.startswith(self._held):
            self._give_blanks(self._held[0])
            self._held = self._held[1:]
        if self._held == opening:
            self._held = ""
            self._begin_section(opening)

    def _give_blanks(self, text: str) -> None:
        """Tell text, but hold back the blanks at its end: beside a section they are dropped."""
        kept = text.rstrip(SPACES)
        if kept:
            self._out.text(self._blanks + kept)
            self._blanks = ""
        self._blanks += text[len(kept) :]

    # Sections

    def _begin_section(self, opening: str) -> None:
        self._raw = list(opening)
        self._is_told = False
        self._await([(self._shape.first, self._begin_call)])

    def _await(self, options: list[tuple[str, Callable[[], None]]]) -> None:
        """Expect one of several marks, blanks left out; an empty one is there already."""
        self._options = [(_without_blanks(mark), then) for mark, then in options]
        self._state = self._in_mark
        self._settle()

    def _settle(self) -> None:
        for rest, then in self._options:
            if not rest:
                then()
                return

    def _in_mark(self, mark: str) -> None:
        self._raw.append(mark)
        if mark in SPACES:
            return
        self._options = [(rest[1:], then) for rest, then in self._options if rest.startswith(mark)]
        if not self._options:
            self._break(mark)
        else:
            self._settle()

    def _begin_call(self) -> None:
        self._is_told = False
        if self._shape.style == "object":
            self._begin_object()
        else:
            self._await([("".join(self._shape.head), self._begin_name)])

    def _end_call(self) -> None:
        self._num_calls += 1
        self._raw = []
        self._blanks = ""
        shape = self._shape
        if shape.separator is None and not shape.last:
            self._end_section()
        elif shape.separator is None:
            self._await([(shape.last, self._end_section)])
        elif not shape.last:
            self._state = self._behind_call
        elif shape.separator.strip(SPACES) or shape.style == "object":
            self._await([(shape.separator, self._begin_call), (shape.last, self._end_section)])
        else:  # the next call begins without a separator: its own head tells it from the end
            self._await([("".join(shape.head), self._begin_name), (shape.last, self._end_section)])
        self._is_told = False

    def _behind_call(self, mark: str) -> None:
        """Behind a call of a section that nothing ends: a separator, or text."""
        self._raw.append(mark)
        if mark in SPACES:
            return
        if mark == self._shape.separator:
            self._begin_call()
        else:
            self._break(mark)

    def _end_section(self) -> None:
        self._raw = []
        self._held = ""
        self._state = self._in_text

    def _break(self, mark: str) -> None:
        """The section cannot be one, because of ``mark``, which is in the raw text."""
        told, raw = self._is_told, self._raw
        self._end_section()
        if told:
            self._num_calls += 1
        if not told or self._is_whole:
            self._give_blanks("".join(raw[:-1]))
        self._in_text(mark)

    def _tell(self, name: str) -> None:
        self._is_told, self._is_whole = True, False
        self._blanks = ""
        self._out.call(self._num_calls, self._new_id(), name)

    # Calls that are objects

    def _begin_object(self) -> None:
        self._scanner = ObjectScanner()
        self._name: str | None = None
        self._text: list[str] = []  # of the member being read
        self._reading: str | None = None  # its kind: name or arguments
        self._arguments: str | None = None  # complete ones that wait for their name
        self._state = self._in_object

    def _in_object(self, mark: str) -> None:
        self._raw.append(mark)
        progress = self._scanner.push(mark)
        if progress == "broken" or not self._follow_member(mark):
            self._break(mark)
        elif progress == "done":
            if self._name is None:
                self._break(mark)
                return
            if not self._is_told:  # a call without arguments
                self._tell(self._name)
                self._out.arguments(self._num_calls, self._arguments or "{}")
            self._end_call()

    def _follow_member(self, mark: str) -> bool:
        """Note what belongs to the name and the arguments; False where they are not what they must be."""
        scanner = self._scanner
        if scanner.value_begins:
            self._reading = None
            self._text = []
            if scanner.key == self._shape.name_key:
                self._reading = "name"
                if mark != '"' or self._name is not None:
                    return False
            elif scanner.key in self._shape.argument_keys:
                self._reading = "arguments"
                if mark != "{" or self._is_told or self._arguments is not None:
                    return False
                if self._name is not None:
                    self._tell(self._name)
        if self._reading == "arguments":
            if self._is_told:
                self._out.arguments(self._num_calls, mark)
            else:
                self._text.append(mark)
        elif self._reading == "name":
            self._text.append(mark)
            if len(self._text) > LONGEST_NAME:
                return False
        if scanner.value_ends:
            return self._end_member()
        return True

    def _end_member(self) -> bool:
        reading, self._reading = self._reading, None
        if reading == "name":
            self._name = json.loads("".join(self._text))
            if self._name not in self._names:
                return False
            if self._arguments is not None:
                self._tell(self._name)
                self._out.arguments(self._num_calls, self._arguments)
        elif reading == "arguments" and not self._is_told:
            self._arguments = "".join(self._text)
        return True

    # Calls with their name in a tag

    def _begin_name(self) -> None:
        self._text = []
        self._state = self._in_name

    def _in_name(self, mark: str) -> None:
        self._raw.append(mark)
        if mark != self._shape.name_end:
            self._text.append(mark)
            if len(self._text) > LONGEST_NAME or not self._may_be_name("".join(self._text).strip(SPACES)):
                self._break(mark)
            return
        name = "".join(self._text).strip(SPACES)
        if name == self._shape.text_name:
            self._end_section()
        elif name not in self._names:
            self._break(mark)
        else:
            self._name = name
            options: list[tuple[str, Callable[[], None]]] = [(self._shape.middle, self._begin_arguments)]
            self._await([*options, (self._shape.aside, self._begin_aside)] if self._shape.aside else options)

    def _begin_aside(self) -> None:
        self._text = []
        self._state = self._in_aside

    def _in_aside(self, mark: str) -> None:
        """In an identifier that is read over."""
        self._raw.append(mark)
        if mark == self._shape.name_end:
            self._await([(self._shape.middle, self._begin_arguments)])
            return
        self._text.append(mark)
        if len(self._text) > LONGEST_NAME:
            self._break(mark)

    def _may_be_name(self, text: str) -> bool:
        return any(name.startswith(text) for name in (*self._names, self._shape.text_name or ""))

    def _begin_arguments(self) -> None:
        self._scanner = ObjectScanner()
        self._state = self._in_arguments

    def _in_arguments(self, mark: str) -> None:
        self._raw.append(mark)
        progress: Progress = self._scanner.push(mark)
        if not self._is_told and mark == "{":
            assert self._name is not None
            self._tell(self._name)
        if progress == "broken":
            self._break(mark)
            return
        if self._is_told:
            self._out.arguments(self._num_calls, mark)
        if progress == "done":
            self._is_whole = True
            self._raw = []
            self._await([(self._shape.tail, self._end_call)])


def _without_blanks(text: str) -> str:
    return "".join(mark for mark in text if mark not in SPACES)
