"""Where in a JSON schema the fault is, when all that is known is that it cannot be compiled.

The part at fault is found by compiling parts: it is the innermost one that fails for the same reason.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flyweight.engine.grammar.bounds import escaped

MOST_TRIES = 64
MAPS = ("properties", "patternProperties", "dependentSchemas")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
SINGLE = ("items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames", "additionalItems")
DEFINITIONS = ("$defs", "definitions")


def place_of_fault(schema: Any, reason: Callable[[Any], str]) -> str:
    """A JSON pointer to the innermost part that fails as the whole does; ``/`` is the whole.

    Args:
        reason: why a schema cannot be compiled; empty when it can.
    """
    if not isinstance(schema, Mapping):
        return "/"
    definitions = {name: schema[name] for name in DEFINITIONS if name in schema}
    whole = reason(schema)
    node, place, tries = schema, "", 0
    followed: set[str] = set()
    while True:
        for name, part in _parts(node, schema):
            if tries == MOST_TRIES or not isinstance(part, Mapping) or name in followed:
                continue
            tries += 1
            if reason({**definitions, **part}) == whole:
                is_reference = name.startswith("/")
                node, place = part, name if is_reference else f"{place}/{name}"
                if is_reference:
                    followed.add(name)
                break
        else:
            return place or "/"


def _parts(node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Schemas inside a schema by name; those it refers to by their pointer, with a slash before it."""
    reference = node.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        found: Any = root
        for step in reference[2:].split("/"):
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        yield reference[1:], found
    for keyword in MAPS:
        if isinstance(node.get(keyword), Mapping):
            for name, part in node[keyword].items():
                yield f"{keyword}/{escaped(name)}", part
    for keyword in LISTS:
        if isinstance(node.get(keyword), list):
            for number, part in enumerate(node[keyword]):
                yield f"{keyword}/{number}", part
    for keyword in SINGLE:
        yield keyword, node.get(keyword)
