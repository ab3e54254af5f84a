"""A recorded load to replay: when each request came and how long its prompt and answer were.

JSON lines: ``{"timestamp": 0.25, "input_tokens": 300, "output_tokens": 40}``, or with ``"prompt"`` or ``"messages"``
and ``"max_tokens"``. ``input_length`` and ``output_length``, as published traces name them, mean the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.bench.load.asks import Ask, Endpoint
from flyweight.bench.load.prompts import PromptSource, read_ask, read_object
from flyweight.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceLine:
    """``time`` in seconds since the first line; ``ask`` where the trace holds prompts, else the two lengths."""

    time: float
    ask: Ask | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


def read_trace(
    path: Path, *, unit_seconds: float, speed: float, most: int | None, endpoint: Endpoint, output_tokens: int
) -> list[TraceLine]:
    """The lines in order of time, which begins with 0 and is divided by ``speed``.

    Args:
        unit_seconds: seconds that one of the file's timestamps is worth.
        most: take only the first so many lines.
        output_tokens: asked for where a line with a prompt names no limit.

    Raises:
        DataError: no lines, or one that cannot be read; the message names it.
    """
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text.strip():
            lines.append(
                _read_line(
                    read_object(text, f"line {number} of {path}"), f"line {number} of {path}", endpoint, output_tokens
                )
            )
    if not lines:
        raise DataError(f"{path} holds no request")
    lines = sorted(lines, key=lambda line: line.time)[:most]
    first, factor = lines[0].time, unit_seconds / speed
    return [
        TraceLine(
            time=(one.time - first) * factor,
            ask=one.ask,
            input_tokens=one.input_tokens,
            output_tokens=one.output_tokens,
        )
        for one in lines
    ]


def trace_asks(lines: Sequence[TraceLine], source: PromptSource | None) -> list[Ask]:
    """The ask of each line; ``source`` makes those of which only the lengths are known."""
    asks = []
    for line in lines:
        if line.ask is not None:
            asks.append(line.ask)
        elif source is None:
            raise DataError("the trace has lines without a prompt; take --prompts random for them")
        else:
            asks.append(source.draw(line.input_tokens, line.output_tokens))
    return asks


def _read_line(given: dict[str, Any], where: str, endpoint: Endpoint, output_tokens: int) -> TraceLine:
    time = given.get("timestamp")
    if not isinstance(time, int | float) or isinstance(time, bool) or not abs(time) < float("inf"):
        raise DataError(f'{where}: "timestamp" is {time!r}; write a number')
    if "prompt" in given or "messages" in given:
        return TraceLine(time=float(time), ask=read_ask(given, where, output_tokens, endpoint=endpoint))
    lengths = [
        given.get(name, given.get(other))
        for name, other in (("input_tokens", "input_length"), ("output_tokens", "output_length"))
    ]
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 1 for one in lengths):
        raise DataError(f'{where} has no "prompt" and no whole "input_tokens" and "output_tokens" from 1')
    return TraceLine(time=float(time), input_tokens=lengths[0], output_tokens=lengths[1])
