"""Grammars that force calls of one shape, or allow text and valid calls only."""

import json
from collections.abc import Callable, Sequence

from flyweight.serving.tools.call_schema import json_rule
from flyweight.serving.tools.shape import CallShape
from flyweight.serving.tools.tool import Tool

SpecialId = Callable[[str], int | None]
ANY_TEXT = r"/(.|\n)*/"


def forced(shape: CallShape, tools: Sequence[Tool], *, parallel: bool, special_id: SpecialId) -> str:
    """A grammar of calls of ``tools`` and nothing else: exactly one, or with ``parallel`` one or more.

    Args:
        special_id: the id of a special token that is this text, or None.
    """
    section = _section(shape, parallel=parallel, special_id=special_id)
    opening = "" if shape.is_opened_by_prompt or _begins_without(shape) else _mark(shape.opening, special_id)
    start = f"{opening} section"
    if parallel and shape.between is not None:
        start += f" ({_mark(shape.between, special_id)} {_mark(shape.opening, special_id)} section)*"
    return "\n".join([f"start: {start}", section, *_calls(shape, tools, special_id)])


def allowed(shape: CallShape, tools: Sequence[Tool], *, parallel: bool, special_id: SpecialId) -> str:
    """A grammar of text, in which whatever begins like a call is one."""
    rules = [_section(shape, parallel=parallel, special_id=special_id), *_calls(shape, tools, special_id)]
    rules.append(f"TEXT: {ANY_TEXT}")
    many = "*" if parallel and shape.between is not None else "?"
    if shape.opening:
        special = special_id(shape.opening)
        if special is not None:
            rules.append(f"opened: TEXT <[{special}]> section")
        else:
            rules.append(f"opening[lazy]: TEXT {json.dumps(shape.opening, ensure_ascii=False)}")
            rules.append("opened: opening section")
    if shape.is_opened_by_prompt:
        start = f'"{shape.text_name}{_escaped(shape.name_end)}" opened{many} TEXT | section opened{many}'
    elif _begins_without(shape):
        # A text that begins like a call is one: the first character decides.
        first = (shape.first + _written(shape.head[0]))[0]
        rules.append(rf"PLAIN: /[^\{first} \t\r\n](.|\n)*/")
        start = "section | PLAIN" + (" | opened" if shape.opening and special_id(shape.opening) is not None else "")
    else:
        start = f"opened{many} TEXT"
    return "\n".join([f"start: {start}", *rules])


def _begins_without(shape: CallShape) -> bool:
    return shape.at_start


def _section(shape: CallShape, *, parallel: bool, special_id: SpecialId) -> str:
    more = ""
    if parallel and shape.separator is not None:
        more = f" ({_mark(shape.separator, special_id)} call)*"
    return f"section: {_mark(shape.first, special_id)} call{more} {_mark(shape.last, special_id)}"


def _calls(shape: CallShape, tools: Sequence[Tool], special_id: SpecialId) -> list[str]:
    rules = ["call: " + " | ".join(f"call_{place}" for place in range(len(tools)))]
    for place, tool in enumerate(tools):
        head = " ".join(part if part.startswith("/") else _mark(part, special_id) for part in shape.head)
        if shape.style == "object":
            middle, tail = shape.middle or f'", "{shape.argument_keys[0]}": ', shape.tail or "}"
        else:
            middle, tail = shape.name_end + shape.middle, shape.tail
        rules.append(
            f"call_{place}: {head} {_mark(tool.name + middle, special_id)} arguments_{place} {_mark(tail, special_id)}"
        )
        rules.append(f"arguments_{place}: {json_rule(tool)}")
    return rules


def _mark(text: str, special_id: SpecialId) -> str:
    """Text as a part of a rule, special tokens in it by their ids."""
    parts = []
    while text:
        place, length, token = _next_special(text, special_id)
        if place:
            parts.append(json.dumps(text[:place], ensure_ascii=False))
        if token is not None:
            parts.append(f"<[{token}]>")
        text = text[place + length :]
    return " ".join(parts)


def _next_special(text: str, special_id: SpecialId) -> tuple[int, int, int | None]:
    """Where the first special token stands in a mark, its length and id; marks are short, and tokens look like
    ``<...>`` or ``[...]``."""
    for place, mark in enumerate(text):
        if mark in "<[":
            for stop in range(place + 2, len(text) + 1):
                if text[stop - 1] in ">]" and (token := special_id(text[place:stop])) is not None:
                    return place, stop - place, token
    return len(text), 0, None


def _written(part: str) -> str:
    return part if not part.startswith("/") else ""


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]
