"""A JSON object read one character at a time: what belongs to which member, where it ends, whether it still is JSON.

Linear in its length, with a stack of its own instead of recursion. It keeps no text.
"""

import json
from typing import Literal

Progress = Literal["more", "done", "broken"]

SPACES = " \t\r\n"
ESCAPES = '"\\/bfnrt'
HEX = "0123456789abcdefABCDEF"
LONGEST_SCALAR = 64
DEEPEST = 256

Expecting = Literal["object", "value", "key", "first_key", "first_item", "colon", "more"]


class ObjectScanner:
    """Reads one object.

    Attributes:
        key: of the member of the object itself whose value is being read, or was read last.
        value_begins, value_ends: whether the last character was the first, or the last, of such a value; a number,
            true, false or null ends before it.
    """

    def __init__(self) -> None:
        self.key = ""
        self.value_begins = self.value_ends = False
        self._stack: list[str] = []
        self._expecting: Expecting = "object"
        self._string: list[str] | None = None  # the string being read, with its escapes
        self._string_is_key = False
        self._escape = 0  # characters of an escape still to come; -1: which kind it is
        self._scalar = ""  # the number or word being read

    def push(self, mark: str) -> Progress:
        """Read a character; none may follow ``done`` and ``broken``."""
        self.value_begins = self.value_ends = False
        if self._string is not None:
            return self._in_string(mark)
        if self._scalar:
            if mark.isalnum() or mark in "+-.":
                self._scalar += mark
                return "more" if len(self._scalar) <= LONGEST_SCALAR else "broken"
            try:
                json.loads(self._scalar)
            except ValueError:
                return "broken"
            self._scalar = ""
            self.value_ends = len(self._stack) == 1
        if mark in SPACES:
            return "more"
        return self._structure(mark)

    def _in_string(self, mark: str) -> Progress:
        assert self._string is not None
        if self._escape == -1:
            self._escape = 4 if mark == "u" else 0
            if mark != "u" and mark not in ESCAPES:
                return "broken"
        elif self._escape:
            self._escape -= 1
            if mark not in HEX:
                return "broken"
        elif mark == "\\":
            self._escape = -1
        elif mark == '"':
            if self._string_is_key:
                if len(self._stack) == 1:
                    self.key = json.loads(f'"{"".join(self._string)}"')
                self._expecting = "colon"
            else:
                self.value_ends = len(self._stack) == 1
                self._expecting = "more"
            self._string = None
            return "more"
        elif mark < " ":
            return "broken"
        if self._string_is_key and len(self._stack) == 1:
            self._string.append(mark)
        return "more"

    def _structure(self, mark: str) -> Progress:
        expecting = self._expecting
        if expecting == "object":
            if mark != "{":
                return "broken"
            self._open(mark)
        elif mark == '"' and expecting in ("key", "first_key"):
            self._string, self._string_is_key = [], True
        elif expecting == "colon" and mark == ":":
            self._expecting = "value"
        elif expecting in ("value", "first_item") and mark not in "]}:,":
            return self._begin_value(mark)
        elif expecting == "more" and mark == ",":
            self._expecting = "key" if self._stack[-1] == "{" else "value"
        elif (mark == "}" and self._stack[-1] == "{" and expecting in ("more", "first_key")) or (
            mark == "]" and self._stack[-1] == "[" and expecting in ("more", "first_item")
        ):
            self._stack.pop()
            self.value_ends = self.value_ends or len(self._stack) == 1
            self._expecting = "more"
            return "more" if self._stack else "done"
        else:
            return "broken"
        return "more"

    def _begin_value(self, mark: str) -> Progress:
        self.value_begins = len(self._stack) == 1
        if mark == '"':
            self._string, self._string_is_key = [], False
        elif mark in "[{":
            if len(self._stack) == DEEPEST:
                return "broken"
            self._open(mark)
        elif mark == "-" or mark.isdecimal() or mark in "tfn":
            self._scalar = mark
            self._expecting = "more"
        else:
            return "broken"
        return "more"

    def _open(self, mark: str) -> None:
        self._stack.append(mark)
        self._expecting = "first_key" if mark == "{" else "first_item"
