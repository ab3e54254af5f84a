"""Golden files, exact match, flips, and the messages for files that cannot be used."""

import json
from pathlib import Path

import pytest

from flyweight.errors import DataError
from flyweight.evaluation.golden import judge_golden, read_golden
from flyweight.evaluation.statistics import mcnemar, wilson


def line(number: int, task: str = "json", **changes: object) -> str:
    entry = {
        "id": f"{task}-{number}",
        "task": task,
        "messages": [{"role": "user", "content": f"q{number}"}],
        "expected": f"a{number}",
        "max_tokens": 8,
    }
    return json.dumps({**entry, **changes})


def write(folder: Path, *lines: str) -> Path:
    path = folder / "golden.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_answers_are_judged_per_task_and_flips_counted(tmp_path: Path) -> None:
    golden = read_golden(write(tmp_path, *(line(n) for n in range(6)), *(line(n, "sum") for n in range(2))))
    originals = ["a0", "a1", "a2", "a3", "x", "x", "a0", "a1"]
    answers = [" a0\n", "x", "x", "a3", "a4", "y", "a0", "a1"]
    found = judge_golden(golden, answers, originals, confidence=0.95)
    json_task, sum_task, everything = found.tasks
    assert (json_task.task, sum_task.task, everything.task) == ("json", "sum", "all")
    assert json_task.exact_match == wilson(3, 6, confidence=0.95, sample="prompts")
    assert json_task.original == wilson(4, 6, confidence=0.95, sample="prompts")
    assert (json_task.broken, json_task.repaired, json_task.changed) == (2, 1, 4)
    assert json_task.p_value == mcnemar(2, 1)
    assert json_task.change is not None
    assert json_task.change.value == pytest.approx(-1 / 6)
    assert (sum_task.broken, sum_task.repaired, sum_task.p_value) == (0, 0, 1.0)
    assert everything.exact_match.num_samples == 8
    assert [one.is_right for one in found.answers] == [True, False, False, True, True, False, True, True]


def test_a_folder_stands_for_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(line(0, "sum", distance=12))
    (tmp_path / "a.jsonl").write_text(line(0))
    (tmp_path / "notes.txt").write_text("not read")
    found = read_golden(tmp_path)
    assert [prompt.id for prompt in found.prompts] == ["json-0", "sum-0"]
    (tmp_path / "b.jsonl").write_text(line(0, "sum", expected="other"))
    assert read_golden(tmp_path).sha256 != found.sha256


def test_alone_there_are_no_flips(tmp_path: Path) -> None:
    golden = read_golden(write(tmp_path, line(0)))
    (task,) = judge_golden(golden, ["a0"], None, confidence=0.95).tasks
    assert task.exact_match.value == 1.0
    assert (task.original, task.change, task.broken, task.p_value) == (None, None, None, None)


def test_a_part_of_each_task_is_spread_over_it(tmp_path: Path) -> None:
    path = write(tmp_path, *(line(n) for n in range(6)), *(line(n, "sum") for n in range(2)))
    assert [p.id for p in read_golden(path, max_per_task=2).prompts] == ["json-1", "json-4", "sum-0", "sum-1"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no golden prompts; each line must be an object with id, task"),
        (["{"], "line 1 is not JSON"),
        (["[]"], "line 1 is not an object"),
        ([line(0), line(1, expcted="x")], "line 2 has an unknown field 'expcted'.*did you mean 'expected'"),
        ([line(0, expected=3)], "needs a field 'expected' of type str"),
        ([line(0, max_tokens=True)], "needs a field 'max_tokens' of type int"),
        ([line(0, max_tokens=0)], "has max_tokens=0; give 1 or more"),
        ([line(0, messages=[])], "needs messages like"),
        ([line(0, messages=[{"role": "user"}])], "needs messages like"),
        ([line(0), line(0)], "line 2 repeats the id 'json-0'"),
        ([line(0, "all")], "names its task 'all'"),
    ],
)
def test_files_that_cannot_be_used_are_explained(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_golden(write(tmp_path, *lines))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"golden file .*nothing\.jsonl is not a file"):
        read_golden(tmp_path / "nothing.jsonl")
