"""Documents of text and JSONL files, and what is no text."""

import hashlib
import re
from pathlib import Path

import pytest

from flyweight.errors import DataError
from flyweight.evaluation.text import count_words, read_text


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_documents_are_parted_by_separator_lines(tmp_path: Path) -> None:
    content = "One.\nStill one.\n<|endoftext|>\n\nTwo, not <|endoftext|> here.\n<|endoftext|>\n<|endoftext|>\n"
    found = read_text(write(tmp_path, "a.txt", content))
    assert found.documents == ("One.\nStill one.", "Two, not <|endoftext|> here.")
    assert found.sha256 == hashlib.sha256(content.encode()).hexdigest()
    assert found.name == "a.txt"


def test_a_plain_file_is_one_document_as_it_is(tmp_path: Path) -> None:
    assert read_text(write(tmp_path, "a.md", "  x \n y\n")).documents == ("  x \n y\n",)


def test_a_text_that_starts_with_bos_has_a_document_after_each(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "<s>One.</s><s>Two <|endoftext|>\n</s>")
    assert read_text(path, bos_text="<s>").documents == ("One.</s>", "Two <|endoftext|>\n</s>")
    assert read_text(path, bos_text="<bos>").documents == ("<s>One.</s><s>Two <|endoftext|>\n</s>",)


def test_bos_written_out_before_a_document_is_not_scored(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "<s>One.<s></s>\n<|endoftext|>\n<s>Two\n")
    assert read_text(path, bos_text="<s>").documents == ("One.<s></s>", "Two")
    assert read_text(path).documents == ("<s>One.<s></s>", "<s>Two")
    assert read_text(write(tmp_path, "a.jsonl", '{"text": "<s>x"}'), bos_text="<s>").documents == ("x",)


def test_jsonl_holds_a_document_a_line(tmp_path: Path) -> None:
    found = read_text(write(tmp_path, "a.jsonl", '{"text": "a\\u2028b"}\n\n{"text": "c", "id": 3}\n'))
    assert found.documents == ("a\u2028b", "c")


def test_words_are_counted_as_the_harness_does() -> None:
    for document in ("a b", " a  b\n", "", "a"):
        assert count_words(document) == len(re.split(r"\s+", document))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "is empty"),
        ("a.txt", " \n<|endoftext|>\n", "is empty"),
        ("a.txt", b"\xff\xfe", r"is not UTF-8 \(byte 0\)"),
        ("a.jsonl", "{}", 'line 1 has no string under "text"'),
        ("a.jsonl", '{"text": "x"}\nnope', "line 2 is not JSON"),
    ],
)
def test_what_is_no_text_is_explained(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_text(write(tmp_path, name, content))


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a file"):
        read_text(tmp_path)
