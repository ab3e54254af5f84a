"""Where asks come from: random text or token ids of drawn lengths, with or without shared beginnings, or a file.

Every source draws with its own seed, so that two runs ask the same.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from flyweight.bench.load.asks import Ask, Endpoint
from flyweight.bench.load.lengths import Lengths
from flyweight.bench.load.token_lengths import TextMaker
from flyweight.errors import DataError

PromptKind = Literal["random", "ids", "file"]
LEAST_ID = 1000  # special tokens of many vocabularies lie below


class PromptSource(Protocol):
    """``draw`` gives the next ask. A trace names the lengths it wants; other loads leave them to the source."""

    def draw(self, input_tokens: int | None = None, output_tokens: int | None = None) -> Ask: ...


class RandomText:
    """Random words, new in every request after the shared beginning."""

    def __init__(
        self, maker: TextMaker, inputs: Lengths, outputs: Lengths, *, shared_prefix: int, prefixes: int, seed: int
    ) -> None:
        self._maker, self._inputs, self._outputs = maker, inputs, outputs
        self._generator = np.random.default_rng([seed, 1])
        self._shared = shared_prefix
        self._prefixes = [maker.text(shared_prefix, self._generator) for _ in range(prefixes if shared_prefix else 0)]

    def draw(self, input_tokens: int | None = None, output_tokens: int | None = None) -> Ask:
        wanted = input_tokens if input_tokens is not None else self._inputs.draw(self._generator)
        text = self._maker.text(wanted, self._generator)
        if self._prefixes:
            text = self._prefixes[int(self._generator.integers(len(self._prefixes)))] + " " + text
        out = output_tokens if output_tokens is not None else self._outputs.draw(self._generator)
        return Ask(prompt=text, input_tokens=wanted + self._shared, output_tokens=out)


class RandomIds:
    """Random token ids for the completions endpoint: lengths are exact."""

    def __init__(
        self, vocab_size: int, inputs: Lengths, outputs: Lengths, *, shared_prefix: int, prefixes: int, seed: int
    ) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._generator = np.random.default_rng([seed, 1])
        low = min(LEAST_ID, vocab_size // 2)
        self._ends = (low, vocab_size - (vocab_size - low) // 16)  # special tokens lie at the upper end as well
        self._prefixes = [self._ids(shared_prefix) for _ in range(prefixes if shared_prefix else 0)]

    def draw(self, input_tokens: int | None = None, output_tokens: int | None = None) -> Ask:
        ids = self._ids(input_tokens if input_tokens is not None else self._inputs.draw(self._generator))
        if self._prefixes:
            ids = self._prefixes[int(self._generator.integers(len(self._prefixes)))] + ids
        out = output_tokens if output_tokens is not None else self._outputs.draw(self._generator)
        return Ask(prompt=ids, input_tokens=len(ids), output_tokens=out)

    def _ids(self, count: int) -> tuple[int, ...]:
        return tuple(int(one) for one in self._generator.integers(*self._ends, count))


class FromFile:
    """The prompts of a file in its order, again from the beginning when it is used up."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self._asks, self._next = asks, 0

    def draw(self, input_tokens: int | None = None, output_tokens: int | None = None) -> Ask:
        ask = self._asks[self._next % len(self._asks)]
        self._next += 1
        return ask


def read_prompts(path: Path, outputs: Lengths, *, endpoint: Endpoint, seed: int) -> list[Ask]:
    """The prompts of a file: ``.jsonl`` with ``{"prompt": ...}`` (text or token ids) or ``{"messages": [...]}`` and,
    where wanted, ``"max_tokens"`` on each line; any other file is text with one prompt on each line.

    Raises:
        DataError: nothing in it, or a line that is neither; the message names the line.
    """
    generator = np.random.default_rng([seed, 2])
    asks = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        given = read_object(line, where) if path.suffix == ".jsonl" else {"prompt": line}
        asks.append(read_ask(given, where, outputs.draw(generator), endpoint=endpoint))
    if not asks:
        raise DataError(f"{path} holds no prompt; write one on each line")
    return asks


def read_ask(given: dict[str, Any], where: str, output_tokens: int, *, endpoint: Endpoint) -> Ask:
    """The ask of one line.

    Raises:
        DataError: no prompt in it, or one that the endpoint does not take.
    """
    prompt, messages = given.get("prompt"), given.get("messages")
    limit = given.get("max_tokens", output_tokens)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise DataError(f"{where}: max_tokens is {limit!r}; write a whole number from 1")
    if isinstance(messages, list) and messages and all(isinstance(one, dict) for one in messages):
        if endpoint != "chat":
            raise DataError(f"{where} has messages, which the completions endpoint does not take; give --endpoint chat")
        return Ask(messages=tuple(messages), output_tokens=limit)
    if isinstance(prompt, list) and prompt and all(isinstance(one, int) and one >= 0 for one in prompt):
        if endpoint != "completions":
            raise DataError(
                f"{where} has token ids, which the chat endpoint does not take; give --endpoint completions"
            )
        return Ask(prompt=tuple(prompt), output_tokens=limit)
    if not isinstance(prompt, str) or not prompt:
        raise DataError(f'{where} has neither "prompt" (text or token ids) nor "messages" (a list)')
    return Ask(prompt=prompt, output_tokens=limit)


def read_object(line: str, where: str) -> dict[str, Any]:
    """
    Raises:
        DataError: the line is no JSON object.
    """
    try:
        found = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{where} is no JSON object")
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}") from error
