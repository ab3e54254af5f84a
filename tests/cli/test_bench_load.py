"""``flyweight bench load`` and ``load-compare`` from end to end, against a scripted server."""

import json

import pytest
from support.fake_openai import Event, FakeOpenAI, Reply

from flyweight.cli import main


@pytest.fixture
def server():
    with FakeOpenAI(lambda number, body: Reply(events=[Event(delay=0.002)] * 4)) as running:
        yield running


def load(server, *more):
    return main(["bench", "load", server.url, "--requests", "10", "--output-tokens", "4", *map(str, more)])


def test_a_run_prints_tables_and_writes_files(server, tmp_path, capsys):
    files = ("--output", tmp_path / "a.json", "--html", tmp_path / "a.html")
    code = load(server, "--concurrency", 1, 2, "--slo", "ttft:500", "tpot:50", *files)
    printed = capsys.readouterr().out
    assert code == 0
    assert "2 in flight" in printed
    assert "goodput" in printed
    assert "first token (TTFT)" in printed
    assert "<svg" in (tmp_path / "a.html").read_text()
    assert len(json.loads((tmp_path / "a.json").read_text())["stages"]) == 2
    load(server, "--concurrency", 1, 2, "--output", tmp_path / "b.json")
    capsys.readouterr()
    code = main(
        [
            "bench",
            "load-compare",
            f"first={tmp_path / 'a.json'}",
            str(tmp_path / "b.json"),
            "--html",
            str(tmp_path / "c.html"),
        ]
    )
    printed = capsys.readouterr().out
    assert code == 0
    assert "TTFT p50, ms" in printed
    assert "written:" in printed


def test_json_goes_to_standard_output(server, capsys):
    assert load(server, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["completed"] == 10
    assert found["total_output_tokens"] == 40


def test_no_answer_is_exit_code_1(capsys):
    with FakeOpenAI(lambda number, body: Reply(status=429) if number else Reply()) as server:
        assert load(server, "--warmup", 0) == 1
    assert "status: 429" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["load", "localhost"], "names no server"),
        (["load", "http://127.0.0.1:9", "--load", "poisson"], "needs a rate"),
        (["load", "http://127.0.0.1:9", "--output", "/"], "/ cannot be written"),
        (["load-compare", "a=missing.json"], "the result missing.json does not exist"),
        (["load-compare", "="], "cannot be read; write NAME=FILE"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert message in error
