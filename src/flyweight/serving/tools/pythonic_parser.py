"""Reads ``[name(key=value, ...), ...]``, an answer that is a list of calls as Python would write them.

An argument is told when it is complete, since only then its value can be written as JSON.
"""

import json
import math
from collections.abc import Callable, Collection

from flyweight.serving.tools.deltas import Delta, Deltas, NewId
from flyweight.serving.tools.object_scanner import SPACES
from flyweight.serving.tools.python_literal import read_literal

LONGEST_NAME = 256


class PythonicParser:
    """A ``ToolParser`` for one answer. Calls of functions that are not in ``names`` are text."""

    def __init__(self, names: Collection[str], new_id: NewId) -> None:
        self._names = frozenset(names)
        self._new_id = new_id
        self._out = Deltas()
        self._num_calls = 0
        self._raw: list[str] = []  # since the beginning, or the last complete call
        self._word: list[str] = []
        self._state: Callable[[str], None] = self._at_start
        self._is_told = False
        self._keys: set[str] = set()

    def push(self, text: str) -> list[Delta]:
        for mark in text:
            self._state(mark)
        return self._out.take()

    def finish(self) -> list[Delta]:
        if not self._is_told and not (self._num_calls and not "".join(self._raw).strip(SPACES)):
            self._out.text("".join(self._raw))
        return self._out.take()

    def _in_text(self, mark: str) -> None:
        self._out.text(mark)

    def _break(self) -> None:
        """No list of calls, or no more: what is told of a call stays, and the rest is text."""
        self._out.text("".join(self._raw))
        self._raw = []
        self._is_told = False
        self._state = self._in_text

    def _at_start(self, mark: str) -> None:
        self._raw.append(mark)
        if mark == "[":
            self._begin_call()
        elif mark not in SPACES:
            self._break()

    def _begin_call(self) -> None:
        self._word = []
        self._state = self._in_name

    def _in_name(self, mark: str) -> None:
        self._raw.append(mark)
        name = "".join(self._word).strip(SPACES)
        if mark == "(":
            if name not in self._names:
                self._break()
                return
            self._name = name
            self._keys = set()
            self._begin_argument()
        else:
            self._word.append(mark)
            name = "".join(self._word).strip(SPACES)
            if len(self._word) > LONGEST_NAME or not any(one.startswith(name) for one in self._names):
                self._break()

    def _begin_argument(self) -> None:
        self._word = []
        self._state = self._in_key

    def _in_key(self, mark: str) -> None:
        self._raw.append(mark)
        key = "".join(self._word).strip(SPACES)
        if mark == "=" and key.isidentifier() and key not in self._keys:
            self._key = key
            self._keys.add(key)
            self._word = []
            self._depth, self._quote, self._is_escaped = 0, "", False
            self._state = self._in_value
        elif mark == ")" and not key:
            self._end_call()
        elif (mark.isalnum() or mark == "_" or mark in SPACES) and len(self._word) <= LONGEST_NAME:
            self._word.append(mark)
        else:
            self._break()

    def _in_value(self, mark: str) -> None:
        self._raw.append(mark)
        if self._quote:
            if self._is_escaped:
                self._is_escaped = False
            elif mark == "\\":
                self._is_escaped = True
            elif mark == self._quote:
                self._quote = ""
        elif mark in "'\"":
            self._quote = mark
        elif mark in "[({":
            self._depth += 1
        elif self._depth and mark in "])}":
            self._depth -= 1
        elif not self._depth and mark in ",)":
            self._end_argument(mark)
            return
        self._word.append(mark)

    def _end_argument(self, mark: str) -> None:
        try:
            value = read_literal("".join(self._word))
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError("no number of JSON")
            text = json.dumps(value, ensure_ascii=False)
        except (ValueError, OverflowError, RecursionError):
            self._break()
            return
        first = not self._is_told
        self._tell()
        self._raw = []
        self._out.arguments(self._num_calls, f"{'{' if first else ', '}{json.dumps(self._key)}: {text}")
        if mark == ",":
            self._begin_argument()
        else:
            self._end_call()

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            self._raw = []
            self._out.call(self._num_calls, self._new_id(), self._name)

    def _end_call(self) -> None:
        first = not self._is_told
        self._tell()
        self._out.arguments(self._num_calls, "{}" if first else "}")
        self._num_calls += 1
        self._is_told = False
        self._raw = []
        self._state = self._behind_call

    def _behind_call(self, mark: str) -> None:
        self._raw.append(mark)
        if mark == ",":
            self._begin_call()
        elif mark == "]":
            self._raw = []
            self._state = self._behind_list
        elif mark not in SPACES:
            self._break()

    def _behind_list(self, mark: str) -> None:
        """Blanks at the end are no text."""
        self._raw.append(mark)
        if mark not in SPACES:
            self._break()
