"""Reads Python's literals without Python: texts, numbers, True, False, None, lists, tuples and objects, to JSON values.

Written for what models write, so that nothing is ever evaluated. JSON's true, false and null are understood too.
"""

import re
from typing import Any

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
WORD = re.compile(r"[A-Za-z]+")
WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
DEEPEST = 32


def read_literal(text: str) -> Any:
    """The value of a literal, blanks around it left out.

    Raises:
        ValueError: when it is none.
    """
    reader = _Reader(text)
    value = reader.value(0)
    reader.skip()
    if reader.place != len(text):
        raise ValueError("something follows the literal")
    return value


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def skip(self) -> None:
        while self.place < len(self.text) and self.text[self.place].isspace():
            self.place += 1

    def peek(self) -> str:
        self.skip()
        return self.text[self.place : self.place + 1]

    def value(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError("nested too deeply")
        mark = self.peek()
        if mark in ("'", '"') and mark:
            return self.string(mark)
        if mark in ("[", "(") and mark:
            return self.items("]" if mark == "[" else ")", depth)
        if mark == "{":
            return self.members(depth)
        if found := NUMBER.match(self.text, self.place):
            self.place = found.end()
            digits = found[0]
            return float(digits) if set(digits) & set(".eE") else int(digits[:4000])
        if (found := WORD.match(self.text, self.place)) and found[0] in WORDS:
            self.place = found.end()
            return WORDS[found[0]]
        raise ValueError("no literal")

    def string(self, quote: str) -> str:
        self.place += 1
        pieces = []
        while (mark := self.text[self.place : self.place + 1]) != quote:
            self.place += 1
            if mark in ("", "\n"):
                raise ValueError("the text has no end")
            pieces.append(self.escape() if mark == "\\" else mark)
        self.place += 1
        return "".join(pieces)

    def escape(self) -> str:
        mark = self.text[self.place : self.place + 1]
        self.place += 1
        if mark in HEX_LENGTHS and mark:
            digits = self.text[self.place : self.place + HEX_LENGTHS[mark]]
            self.place += len(digits)
            return chr(int(digits, 16))
        return ESCAPES.get(mark, mark if mark in ("\\", "'", '"') else "\\" + mark)

    def items(self, end: str, depth: int) -> list[Any]:
        self.place += 1
        found = []
        while self.peek() != end:
            found.append(self.value(depth + 1))
            self.comma(end)
        self.place += 1
        return found

    def members(self, depth: int) -> dict[str, Any]:
        self.place += 1
        found: dict[str, Any] = {}
        while self.peek() != "}":
            key = self.value(depth + 1)
            if not isinstance(key, str) or self.peek() != ":":
                raise ValueError("a key is a text with a colon behind it")
            self.place += 1
            found[key] = self.value(depth + 1)
            self.comma("}")
        self.place += 1
        return found

    def comma(self, end: str) -> None:
        mark = self.peek()
        if mark == ",":
            self.place += 1
        elif mark != end:
            raise ValueError("a comma is missing")
