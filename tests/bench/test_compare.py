"""A comparison from end to end: two environments of ours on a tiny model, and peers that fail."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flyweight
from flyweight.bench import CompareOptions, compare
from flyweight.bench.compare import turned
from flyweight.bench.compare_options import open_peers
from flyweight.bench.compare_report import CompareReport, EngineFacts, TaskResult, report_page, report_tables
from flyweight.cli import main
from flyweight.errors import UsageError
from flyweight.reporting import render_page
from tests.support.checkpoints import write_tiny_llama

SOURCES = Path(flyweight.__file__).parents[1]  # what is under test, installed or not


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(folder, max_positions=2048, vocab_size=2048)
    return folder


@pytest.fixture(autouse=True)
def _sources_for_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers import the package from where this process has it."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SOURCES), os.environ.get("PYTHONPATH", "")]))
    return


def test_two_engines_in_turn(model: Path) -> None:
    report = compare(
        model,
        [f"flyweight={sys.executable}:{model}"],
        CompareOptions(tasks=("depth-0", "streams-8", "start"), rounds=2, compute="float32"),
    )
    assert [engine.label for engine in report.engines] == ["flyweight", "flyweight (2)"]
    assert [result.task for result in report.results] == ["depth-0", "streams-8", "start"]
    for result in report.results:
        assert not result.failures
        for rounds in result.figures.values():
            assert len(rounds) == 2
            assert all(value > 0 for one in rounds for value in one.values())
    found = {(one.task, one.figure) for one in report.comparisons()}
    assert {("depth-0", "prefill"), ("streams-8", "worst TTFT"), ("start", "start"), ("start", "peak memory")} <= found
    read = json.loads(report.to_json())
    assert read["engines"][1]["commands"]["streams-8"].startswith(sys.executable)
    assert "flyweight (2)" in render_page(report_page(report))


def test_a_peer_that_fails_is_reported_and_the_exit_code_says_so(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "llama-bench").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "llama-bench").chmod(0o755)
    (tmp_path / "m.gguf").touch()
    peer = f"llama.cpp={tmp_path / 'llama-bench'}:{tmp_path / 'm.gguf'}"
    arguments = ["bench", "compare", str(model), "--peer", peer, "--tasks", "depth-0", "--rounds", "1"]
    assert main([*arguments, "--html", str(tmp_path / "report.html")]) == 1
    printed = capsys.readouterr().out
    assert "Not measured" in printed
    assert "ended with 9" in printed
    assert "Not measured" in (tmp_path / "report.html").read_text()


def test_each_round_begins_with_the_next_engine() -> None:
    assert [turned(["a", "b", "c"], number)[0] for number in range(4)] == ["a", "b", "c", "a"]
    assert sorted(turned(["a", "b", "c"], 2)) == ["a", "b", "c"]


def test_ratios_are_turned_so_that_more_is_better_for_us() -> None:
    engines = tuple(EngineFacts(label=one, model="", protocol="", facts={}, commands={}) for one in ("flyweight", "x"))
    figures = {
        "flyweight": [{"output": 30.0, "mean TTFT": 1.0}] * 3,
        "x": [
            {"output": 20.0, "mean TTFT": 4.0},
            {"output": 10.0, "mean TTFT": 4.0},
            {"output": 20.0, "mean TTFT": 2.0},
        ],
    }
    report = CompareReport(
        flyweight_version="",
        machine="",
        date="",
        model="m",
        threads=2,
        rounds=3,
        engines=engines,
        results=(TaskResult(task="streams-8", figures=figures, failures={}),),
    )
    found = {one.figure: one.ratio for one in report.comparisons()}
    assert (found["output"].median, found["output"].high) == (1.5, 3.0)
    assert (found["mean TTFT"].median, found["mean TTFT"].low) == (4.0, 2.0)
    rows = report_tables(report)[1].rows
    assert rows[0][3] == "1.50"


@pytest.mark.parametrize("text", ["llama.cpp", "llama.cpp=program", "=a:b", "llama.cpp=:b"])
def test_a_peer_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="NAME=PROGRAM:MODEL"):
        open_peers([text])


def test_unknown_peers_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'llama\.cpp'"):
        open_peers(["llamacpp=a:b"])
    with pytest.raises(UsageError, match="does not exist"):
        open_peers([f"vllm={tmp_path / 'python'}:{tmp_path}"])


def test_a_task_beyond_the_context_is_refused_before_anything_runs(model: Path) -> None:
    with pytest.raises(UsageError, match="4609 tokens"):
        compare(model, options=CompareOptions(tasks=("depth-4096",)))


def test_options_are_checked() -> None:
    for wrong in ({"tasks": ()}, {"tasks": ("x",)}, {"rounds": 0}, {"threads": 0}, {"tasks": ("start", "start")}):
        with pytest.raises(UsageError):
            CompareOptions(**wrong)
