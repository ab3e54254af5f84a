"""``flyweight batch``: exit codes and what is printed."""

import json
from pathlib import Path

import pytest

from flyweight.cli import main
from tests.support.checkpoints import write_tiny_llama, write_word_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(path, tied=False)
    write_word_tokenizer(path)
    return path


def line(number: int, **body: object) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": "w3 w4"}], "max_tokens": 5} | body
    return json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n"


def test_all_well_is_0_and_some_failed_is_3(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line(1) + line(2, temperature=1, seed=1))
    assert main(["batch", str(source), str(output), "--model", str(folder), "--speculate", "prompt-lookup"]) == 0
    assert capsys.readouterr().out.startswith("2 of 2 requests answered, ")
    assert len(output.read_text().splitlines()) == 2
    source.write_text(line(1) + line(2, temperature=9))
    output.unlink()
    assert main(["batch", str(source), str(output), "--model", str(folder), "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert (report["lines"], report["failed"], report["resumed"]) == (2, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.jsonl", "out.jsonl", "--model", "x"], "the batch file missing.jsonl does not exist"),
        (["in.jsonl", "in.jsonl", "--model", "x"], "in.jsonl exists already; remove it or choose another name"),
        (["in.jsonl", "out.jsonl", "--model", "nowhere"], "nowhere"),
        (["in.jsonl", "out.jsonl", "--model", "x", "--speculate", "ngram"], "speculate='ngram' is unknown"),
        (["in.jsonl", "out.jsonl", "--model", "x", "--max-tokens", "0"], "max_tokens=0 is not allowed"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text(line(1))
    assert main(["batch", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err.splitlines()[-1]
