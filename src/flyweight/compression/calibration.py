"""Calibration text becomes a matrix of token ids: read, sampled by a seed, packed to equal lengths, checked, hashed.

It knows files and tokenizers; it does not know models or what the tokens are used for.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flyweight.errors import DataError, UsageError
from flyweight.formats.base import Array

SEPARATOR = "<|endoftext|>"  # between documents of a plain text file, where it occurs
FEWEST_TOKENS = 128  # below this no statistics mean anything
FEWEST_DISTINCT = 16


class TextTokenizer(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Token ids int32 (sequences, length) and where they came from. ``content_hash`` is of the ids."""

    tokens: Array
    source: str
    vocab_size: int

    @property
    def content_hash(self) -> str:
        shape = f"{self.tokens.shape[0]}x{self.tokens.shape[1]}:".encode()
        return hashlib.sha256(shape + np.ascontiguousarray(self.tokens, "<i4").tobytes()).hexdigest()

    @property
    def num_distinct(self) -> int:
        return len(np.unique(self.tokens))

    @property
    def summary(self) -> str:
        sequences, length = self.tokens.shape
        share = self.num_distinct / self.vocab_size
        distinct = f"{self.num_distinct} distinct ({share:.1%} of the vocabulary)"
        return f"{sequences} x {length} tokens of {self.source}, {distinct}"


def read_calibration(
    path: str | Path,
    tokenizer: TextTokenizer | None,
    *,
    sequences: int,
    length: int,
    seed: int,
    vocab_size: int,
) -> Calibration:
    """Read plain text (documents separated by ``<|endoftext|>``, or one document), ``.jsonl`` with ``text`` or
    ``messages`` (through the chat template), or ``.npy`` with token ids (sequences, length), whose first rows are used.

    Documents are shuffled by ``seed``, tokenized with the special tokens that the model expects, laid one after another
    and cut into ``sequences`` pieces of ``length`` tokens.

    Raises:
        DataError: when the file is missing, empty, malformed or too short, or its tokens cover too little.
    """
    path = Path(path)
    if sequences < 1 or length < 2:
        raise DataError(f"{sequences} sequences of {length} tokens: at least 1 sequence of 2 tokens is needed")
    if not path.is_file():
        raise DataError(f"calibration file {path} does not exist; give a text, .jsonl or .npy file")
    if path.suffix == ".npy":
        tokens = _read_ids(path, sequences, length)
    else:
        if tokenizer is None:
            raise DataError(
                f"calibration file {path} holds text, but the model has no tokenizer; give token ids as .npy"
            )
        tokens = _pack(path, tokenizer, sequences, length, seed)
    calibration = Calibration(tokens=tokens, source=path.name, vocab_size=vocab_size)
    _check_coverage(calibration, path)
    return calibration


def _read_ids(path: Path, sequences: int, length: int) -> Array:
    try:
        ids = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"calibration file {path} is not a .npy array of token ids: {error}") from None
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise DataError(
            f"calibration file {path} holds {ids.dtype} of shape {ids.shape}; needed: whole numbers (sequences, length)"
        )
    if ids.shape[0] < sequences or ids.shape[1] < length:
        raise DataError(
            f"calibration file {path} holds {ids.shape[0]} x {ids.shape[1]} token ids, but {sequences} x {length} are "
            "asked for; lower --sequences or --sequence-length"
        )
    return np.ascontiguousarray(ids[:sequences, :length], dtype=np.int64)


def _pack(path: Path, tokenizer: TextTokenizer, sequences: int, length: int, seed: int) -> Array:
    documents = list(_documents(path))
    if not documents:
        raise DataError(f"calibration file {path} is empty; give text of at least {sequences * length} tokens")
    random.Random(seed).shuffle(documents)
    needed = sequences * length
    stream: list[int] = []
    for document in documents:
        stream += _encode(document, tokenizer, path)
        if len(stream) >= needed:
            break
    available = len(stream) // length
    if available < sequences:
        raise DataError(
            f"calibration file {path} gives {len(stream)} tokens, but {sequences} sequences of {length} need {needed}; "
            f"give more text, or lower --sequences (to {max(available, 1)}) or --sequence-length"
        )
    windows = np.array(stream[: available * length], np.int64).reshape(available, length)
    if available == sequences:
        return windows
    chosen = sorted(random.Random(seed).sample(range(available), sequences))  # one long document: windows all over it
    return np.ascontiguousarray(windows[chosen])


def _documents(path: Path) -> Iterator[str | list[dict[str, Any]]]:
    """The file's documents: text, or chats as lists of messages."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"calibration file {path} is not UTF-8 text (byte {error.start}); convert it") from None
    except OSError as error:
        raise DataError(f"calibration file {path} cannot be read: {error.strerror}") from None
    if path.suffix != ".jsonl":
        yield from (part.strip() for part in text.split(SEPARATOR) if part.strip())
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield _record(line, f"calibration file {path}, line {number}")


def _record(line: str, where: str) -> str | list[dict[str, Any]]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from None
    if isinstance(record, dict) and isinstance(record.get("text"), str):
        return str(record["text"])
    messages = record.get("messages") if isinstance(record, dict) else None
    if isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages):
        return messages
    raise DataError(f"{where} has neither 'text' (a string) nor 'messages' (a list of objects with role and content)")


def _encode(document: str | list[dict[str, Any]], tokenizer: TextTokenizer, path: Path) -> list[int]:
    try:
        if isinstance(document, str):
            return tokenizer.encode(document)
        return tokenizer.encode_chat(document, add_generation_prompt=False)
    except UsageError as error:
        raise DataError(f"calibration file {path}: {error}") from error


def _check_coverage(calibration: Calibration, path: Path) -> None:
    """Refuse tokens that cannot stand for any text: too few, unknown to the model, or nearly all the same."""
    tokens = calibration.tokens
    if tokens.size < FEWEST_TOKENS:
        raise DataError(
            f"calibration with {tokens.size} tokens is too short: at least {FEWEST_TOKENS} are needed; "
            "raise --sequences or --sequence-length"
        )
    smallest, largest = int(tokens.min()), int(tokens.max())
    if smallest < 0 or largest >= calibration.vocab_size:
        wrong = smallest if smallest < 0 else largest
        raise DataError(
            f"calibration file {path} gives token id {wrong}, but the model's vocabulary is 0 to "
            f"{calibration.vocab_size - 1}; it was made with another tokenizer"
        )
    if calibration.num_distinct < min(FEWEST_DISTINCT, calibration.vocab_size):
        raise DataError(
            f"calibration file {path} uses only {calibration.num_distinct} different tokens of "
            f"{calibration.vocab_size}; give text of the kind that the model will meet"
        )
