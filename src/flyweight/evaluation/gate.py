"""Limits that a compressed model must keep, read from a YAML file, and the verdict on a report.

    compare: bound          # or: value
    max_kl: 0.02            # mean KL to the original, nats per token
    max_kl_p99: 0.3
    min_top1: 0.95          # share of tokens with the original's top token
    max_ppl_ratio: 1.02     # token perplexity over the original's
    min_golden: {json: 0.9, all: 0.85}

With ``compare: bound`` (the default) a limit holds only when the end of the interval on its side keeps it: the sample
then shows that the limit is kept, rather than leaving it open. ``compare: value`` looks at the measured value alone.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from flyweight.errors import DataError, UsageError, nearest
from flyweight.evaluation.statistics import Figure
from flyweight.evaluation.text import read_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """Limits; None or empty means that nothing is asked there."""

    compare: Literal["bound", "value"] = "bound"
    max_kl: float | None = None
    max_kl_p99: float | None = None
    min_top1: float | None = None
    max_ppl_ratio: float | None = None
    min_golden: dict[str, float] = field(default_factory=dict)

    @property
    def needs_original(self) -> bool:
        return any(limit is not None for limit in (self.max_kl, self.max_kl_p99, self.min_top1, self.max_ppl_ratio))


@dataclass(frozen=True, kw_only=True, slots=True)
class GateCheck:
    """One limit: the figure it looked at, what was compared with it, and whether it holds."""

    name: str
    limit: float
    value: float
    compared: float
    passed: bool
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GateVerdict:
    passed: bool
    compare: str
    checks: tuple[GateCheck, ...]


def read_gate(path: str | Path) -> Gate:
    """Read a gate file.

    Raises:
        DataError: when it is missing, not YAML, sets no limit, or has a key or value that is not understood.
    """
    source = Path(path)
    try:
        content = yaml.safe_load(read_bytes(source, "gate file"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"gate file {source} is not YAML: {str(error).splitlines()[0]}") from None
    known = [one.name for one in fields(Gate)]
    if not isinstance(content, dict):
        raise DataError(f"gate file {source} must map limits to numbers; known: {', '.join(known)}")
    for name, value in content.items():
        if name not in known:
            hint = nearest(str(name), known)
            raise DataError(f"gate file {source} has an unknown limit {name!r}; known: {', '.join(known)}{hint}")
        _check_value(source, name, value)
    gate = Gate(**content)
    if not gate.needs_original and not gate.min_golden:
        raise DataError(f"gate file {source} sets no limit; give at least one of {', '.join(known[1:])}")
    return gate


def _check_value(source: Path, name: str, value: Any) -> None:
    if name == "compare":
        if value not in ("bound", "value"):
            raise DataError(f"gate file {source}: compare={value!r} is not understood; choose bound or value")
    elif name == "min_golden":
        if not isinstance(value, dict) or not all(isinstance(task, str) and _is_number(v) for task, v in value.items()):
            raise DataError(f"gate file {source}: min_golden must map tasks to shares, such as {{json: 0.9}}")
    elif not _is_number(value):
        raise DataError(f"gate file {source}: {name}={value!r} is not a number")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def judge(gate: Gate, maxima: dict[str, Figure], minima: dict[str, Figure], golden: dict[str, Figure]) -> GateVerdict:
    """Compare figures with the gate's limits.

    Args:
        maxima: figures by the name of the limit that bounds them from above.
        minima: figures by the name of the limit that bounds them from below.
        golden: exact-match share by task.

    Raises:
        UsageError: when a limit asks for a figure that was not measured.
    """
    checks = []
    for name, figures, sign in (
        *((name, maxima, 1) for name in ("max_kl", "max_kl_p99", "max_ppl_ratio")),
        ("min_top1", minima, -1),
    ):
        limit = getattr(gate, name)
        if limit is None:
            continue
        if name not in figures:
            raise UsageError(f"the gate sets {name}, which needs an original and a text; give --against and --text")
        checks.append(_check(name, limit, figures[name], sign, gate.compare))
    for task, limit in gate.min_golden.items():
        if task not in golden:
            raise UsageError(f"the gate sets min_golden for task {task!r}, which was not measured; give --golden")
        checks.append(_check(f"min_golden[{task}]", limit, golden[task], -1, gate.compare))
    return GateVerdict(passed=all(check.passed for check in checks), compare=gate.compare, checks=tuple(checks))


def _check(name: str, limit: float, figure: Figure, sign: int, compare: str) -> GateCheck:
    end = figure.high if sign > 0 else figure.low
    compared = figure.value if compare == "value" or end is None else end
    passed = compared <= limit if sign > 0 else compared >= limit
    relation = ("<=" if passed else ">") if sign > 0 else (">=" if passed else "<")
    if compare == "value" or end is None:
        text = f"{name}: {figure.value:.6g} {relation} {limit:g}"
    else:
        side = "upper" if sign > 0 else "lower"
        text = f"{name}: {side} end {compared:.6g} of the interval {relation} {limit:g} (value {figure.value:.6g})"
        value_passes = figure.value <= limit if sign > 0 else figure.value >= limit
        if not passed and value_passes:
            text += f"; the value keeps the limit, but {figure.num_samples} {figure.sample} do not show it: use more"
    return GateCheck(name=name, limit=limit, value=figure.value, compared=compared, passed=passed, text=text)
