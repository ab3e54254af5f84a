"""Gate files, and which end of an interval a limit looks at."""

from pathlib import Path

import pytest

from flyweight.errors import DataError, UsageError
from flyweight.evaluation.gate import Gate, judge, read_gate
from flyweight.evaluation.statistics import Figure


def figure(value: float, low: float | None, high: float | None) -> Figure:
    return Figure(value=value, low=low, high=high, confidence=0.95, num_samples=50, sample="tokens", interval="x")


KL = {"max_kl": figure(0.1, 0.08, 0.12), "max_ppl_ratio": figure(1.01, 1.0, 1.02)}
TOP = {"min_top1": figure(0.9, 0.88, 0.92)}
GOLDEN = {"json": figure(0.95, 0.9, 0.98), "all": figure(0.9, 0.85, 0.93)}


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        (Gate(max_kl=0.13), True),
        (Gate(max_kl=0.11), False),
        (Gate(max_kl=0.11, compare="value"), True),
        (Gate(max_kl=0.09, compare="value"), False),
        (Gate(min_top1=0.87), True),
        (Gate(min_top1=0.89), False),
        (Gate(min_top1=0.89, compare="value"), True),
        (Gate(max_ppl_ratio=1.015), False),
        (Gate(min_golden={"json": 0.9, "all": 0.85}), True),
        (Gate(min_golden={"json": 0.91}), False),
        (Gate(max_kl=0.13, min_top1=0.95), False),
    ],
)
def test_a_limit_holds_only_when_the_end_of_the_interval_keeps_it(gate: Gate, passed: bool) -> None:
    assert judge(gate, KL, TOP, GOLDEN).passed is passed


def test_the_verdict_names_the_figure_and_what_was_compared() -> None:
    verdict = judge(Gate(max_kl=0.11, min_top1=0.87), KL, TOP, GOLDEN)
    failed, kept = verdict.checks
    assert failed.text == (
        "max_kl: upper end 0.12 of the interval > 0.11 (value 0.1); "
        "the value keeps the limit, but 50 tokens do not show it: use more"
    )
    assert kept.text == "min_top1: lower end 0.88 of the interval >= 0.87 (value 0.9)"
    assert (failed.compared, failed.limit, failed.passed, kept.passed) == (0.12, 0.11, False, True)


def test_a_limit_without_its_figure_is_refused() -> None:
    with pytest.raises(UsageError, match="sets max_kl, which needs an original and a text"):
        judge(Gate(max_kl=1), {}, {}, {})
    with pytest.raises(UsageError, match="task 'json', which was not measured"):
        judge(Gate(min_golden={"json": 0.5}), KL, TOP, {})


def write(folder: Path, content: str) -> Path:
    path = folder / "gate.yaml"
    path.write_text(content)
    return path


def test_a_gate_file_is_read(tmp_path: Path) -> None:
    gate = read_gate(write(tmp_path, "compare: value\nmax_kl: 0.02\nmin_golden: {json: 0.9}\n"))
    assert gate == Gate(compare="value", max_kl=0.02, min_golden={"json": 0.9})
    assert Gate().compare == "bound"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("max_lk: 0.1", "unknown limit 'max_lk'.*did you mean 'max_kl'"),
        ("max_kl: small", "max_kl='small' is not a number"),
        ("max_kl: yes", "max_kl=True is not a number"),
        ("max_kl: .nan", "is not a number"),
        ("compare: mean\nmax_kl: 1", "compare='mean' is not understood; choose bound or value"),
        ("min_golden: 0.9", "min_golden must map tasks to shares"),
        ("compare: bound", "sets no limit"),
        ("[1, 2]", "must map limits to numbers"),
        ("", "must map limits to numbers"),
        ("a: [", "is not YAML"),
    ],
)
def test_gate_files_that_cannot_be_used_are_explained(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_gate(write(tmp_path, content))
