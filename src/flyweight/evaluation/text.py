"""Evaluation text from files: documents in order, and the hash that names them.

It does not know tokens.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from flyweight.errors import DataError

SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationText:
    """Documents in order. ``sha256`` is over the file's bytes as read."""

    name: str
    documents: tuple[str, ...]
    sha256: str


def count_words(document: str) -> int:
    """Words as lm-evaluation-harness counts them for wikitext: pieces between runs of white space."""
    return len(re.split(r"\s+", document))


def read_text(path: str | Path, *, bos_text: str | None = None) -> EvaluationText:
    """Read documents from a file.

    A ``.jsonl`` file holds one document a line, as the string under ``text``. Any other file is text, whose documents
    are separated by lines that hold only ``<|endoftext|>`` (white space around a document separated so is not part of
    it) or, without such a line, start wherever ``bos_text`` stands, if the file starts with it. Otherwise the file is
    one document. ``bos_text`` is the tokenizer's BOS written out; at the start of a document it is not part of it,
    since the protocol puts BOS there.

    Raises:
        DataError: when the file is missing, not UTF-8, holds no text, or a line of it is not such an object.
    """
    source = Path(path)
    raw = read_bytes(source, "evaluation text")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"evaluation text {source} is not UTF-8 (byte {error.start}); convert it first") from None
    if source.suffix == ".jsonl":
        documents = tuple(_document(line, source, number) for number, line in numbered_lines(text))
    else:
        documents = _split(text, bos_text)
    documents = tuple(document.removeprefix(bos_text or "") for document in documents)
    documents = tuple(document for document in documents if document.strip())
    if not documents:
        raise DataError(f"evaluation text {source} is empty; give a file with text in it")
    return EvaluationText(name=source.name, documents=documents, sha256=hashlib.sha256(raw).hexdigest())


def _split(text: str, bos_text: str | None) -> tuple[str, ...]:
    parts = re.split(rf"^{re.escape(SEPARATOR)}[ \t]*\r?$", text, flags=re.MULTILINE)
    if len(parts) > 1:
        return tuple(part.strip() for part in parts)
    return tuple(text.split(bos_text)) if bos_text and text.startswith(bos_text) else (text,)


def read_bytes(path: Path, what: str) -> bytes:
    """The file's bytes; DataError naming ``what`` when it is not a readable file."""
    if not path.is_file():
        raise DataError(f"{what} {path} is not a file; give the path of one")
    return path.read_bytes()


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """Non-empty lines with their numbers from 1 (split at line feeds only: JSON strings may hold other separators)."""
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _document(line: str, path: Path, number: int) -> str:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {number} is not JSON: {error.msg}") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise DataError(f'{path} line {number} has no string under "text"; each line must be {{"text": "..."}}')
    return str(entry["text"])
