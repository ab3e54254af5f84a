"""Looks over a grammar's source before anything is compiled: sizes, nesting, repetitions. Linear in its length.

It does not know whether a schema or a pattern is valid: the compiler says that.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flyweight.engine.grammar.limits import GrammarLimits
from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.errors import UsageError

OPTIONS_KEY = "x-guidance"
COUNT = re.compile(r"\{(\d+)(,)?(\d*)\}")


def check_bounds(spec: ConstraintSpec, limits: GrammarLimits) -> None:
    """Raise UsageError where ``spec`` exceeds a limit, naming the limit and, in a schema, the place."""
    size = len(spec.source.encode("utf-8"))
    if size > limits.source_bytes:
        raise UsageError(
            f"{spec.origin} has {size} bytes and at most {limits.source_bytes} are allowed; make it smaller"
        )
    if spec.kind == "regex":
        _check_pattern(spec.source, spec.origin, limits)
    elif spec.kind == "choice":
        choices = json.loads(spec.source)
        _check_values(choices, spec.origin, limits)
    elif spec.kind == "json_schema":
        # Text first: the parser below goes into the depth once for each level.
        depth = nesting(spec.source)
        if depth > limits.nesting:
            raise UsageError(
                f"{spec.origin} is nested {depth} levels deep and at most {limits.nesting} are allowed; move parts to "
                "$defs"
            )
        _check_schema(json.loads(spec.source), spec.origin, limits)


def nesting(text: str) -> int:
    """How deep objects and lists stand inside each other in JSON text."""
    deepest = depth = 0
    for mark in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text, re.DOTALL):
        if mark[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark[0] in "]}":
            depth -= 1
    return deepest


def _check_schema(schema: Any, origin: str, limits: GrammarLimits) -> None:
    for place, node in _objects(schema, ""):
        here = f"{origin} at {place or '/'}"
        if OPTIONS_KEY in node:
            raise UsageError(f"{here}: {OPTIONS_KEY} is not allowed; options of the grammar engine are the server's")
        if isinstance(node.get("enum"), list):
            _check_values(node["enum"], f"{here}/enum", limits)
        if isinstance(node.get("const"), str):
            _check_values([node["const"]], f"{here}/const", limits)
        if isinstance(node.get("pattern"), str):
            _check_pattern(node["pattern"], f"{here}/pattern", limits)
        if isinstance(node.get("patternProperties"), Mapping):
            for pattern in node["patternProperties"]:
                _check_pattern(pattern, f"{here}/patternProperties", limits)


def _objects(node: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every object in a JSON value, with its JSON pointer."""
    if isinstance(node, Mapping):
        yield place, node
        for name, value in node.items():
            yield from _objects(value, f"{place}/{escaped(name)}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _objects(value, f"{place}/{number}")


def escaped(name: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901), shortened for messages."""
    text = name.replace("~", "~0").replace("/", "~1")
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_values(values: list[Any], origin: str, limits: GrammarLimits) -> None:
    if len(values) > limits.enum_values:
        raise UsageError(f"{origin} has {len(values)} values and at most {limits.enum_values} are allowed")
    for place, value in enumerate(values):
        size = len(value.encode("utf-8")) if isinstance(value, str) else 0
        if size > limits.literal_bytes:
            raise UsageError(
                f"{origin}: value {place} has {size} bytes and at most {limits.literal_bytes} are allowed in one text"
            )


def _check_pattern(pattern: str, origin: str, limits: GrammarLimits) -> None:
    size = len(pattern.encode("utf-8"))
    if size > limits.pattern_bytes:
        raise UsageError(f"{origin} has {size} bytes and at most {limits.pattern_bytes} are allowed in one pattern")
    times = repetitions(pattern)
    if times > limits.repetitions:
        raise UsageError(
            f"{origin} repeats a part {times} times and at most {limits.repetitions} are allowed, nested counts "
            "multiplied"
        )


def repetitions(pattern: str) -> int:
    """The most times that a part of a pattern is repeated by counts like ``{3,5}``, nested ones multiplied."""
    open_groups = [1]  # of each open group: the most repetitions inside it so far
    last = 1  # of the part that a count would repeat
    place = 0
    while place < len(pattern):
        mark = pattern[place]
        count = COUNT.match(pattern, place) if mark == "{" else None
        if count is not None:
            last *= max(1, int((count[3] or count[1])[:9]))
            open_groups[-1] = max(open_groups[-1], last)
            place = count.end()
            continue
        if mark == "\\":
            place, last = place + 1, 1
        elif mark == "[":
            place, last = _end_of_class(pattern, place), 1
        elif mark == "(":
            open_groups.append(1)
            last = 1
        elif mark == ")" and len(open_groups) > 1:
            last = open_groups.pop()
            open_groups[-1] = max(open_groups[-1], last)
        elif mark not in "?*+":
            last = 1
        place += 1
    return max(open_groups)


def _end_of_class(pattern: str, place: int) -> int:
    """Where the character class that begins at ``place`` ends."""
    place += 2 if pattern.startswith("[]", place) else 3 if pattern.startswith("[^]", place) else 1
    while place < len(pattern) and pattern[place] != "]":
        place += 2 if pattern[place] == "\\" else 1
    return place
