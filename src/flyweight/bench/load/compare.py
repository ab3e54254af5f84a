"""Two or more results side by side: ratios of their figures, with intervals.

One run each: intervals by resampling both runs' requests (latencies) and slices of time (throughput). Several runs of
each, taken in turn: the median of the ratios of neighbouring runs, which is what to do on a machine that is shared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from flyweight.bench.load.distributions import interval, latencies, resampled
from flyweight.bench.load.figures import StageFigures
from flyweight.bench.load.result import LoadReport, StageResult
from flyweight.bench.statistics import paired_ratio
from flyweight.errors import UsageError

LATENCY_FIGURES = (("ttft", "p50"), ("ttft", "p95"), ("tpot", "p50"), ("tpot", "p95"), ("e2e", "mean"), ("e2e", "p95"))
SAME_IN_ALL = (
    *("load", "rate", "concurrency", "input_tokens", "output_tokens", "shared_prefix", "prefixes", "prompts"),
    *("endpoint", "temperature", "ignore_eos", "seed", "requests", "duration", "trace", "prompt_file"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureRatio:
    """One figure of one label over the same of the first label. ``low`` and ``high`` are None where no interval can be
    made; ``covers`` is the interval's probability. ``values`` are the medians over the runs, first label's first."""

    stage: str
    figure: str
    unit: str
    more_is_better: bool
    label: str
    values: tuple[float, float]
    ratio: float
    low: float | None
    high: float | None
    covers: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadComparison:
    """``labels`` in the order given; the first is what the others are compared with. ``remarks`` name differences
    between the runs that make their figures hard to compare."""

    labels: tuple[str, ...]
    num_runs: int
    ratios: tuple[FigureRatio, ...]
    remarks: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def compare_loads(runs: Mapping[str, Sequence[LoadReport]]) -> LoadComparison:
    """Compare labelled runs; the first label is the reference.

    Raises:
        UsageError: fewer than two labels, different numbers of runs, or no stage that all of them have.
    """
    labels = list(runs)
    if len(labels) < 2:
        raise UsageError("there is one result to compare; give two or more")
    counts = {label: len(reports) for label, reports in runs.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{label} has {count}" for label, count in counts.items())
        raise UsageError(f"runs are compared pair by pair, and {told}; give as many of each")
    stages = [_stages(reports) for reports in runs.values()]
    common = [name for name in stages[0] if all(name in one for one in stages)]
    if not common:
        told = "; ".join(f"{label}: {', '.join(one)}" for label, one in zip(labels, stages, strict=True))
        raise UsageError(f"the results have no stage in common ({told}); run them with the same load")
    ratios = [
        ratio
        for name in common
        for label, one in zip(labels[1:], stages[1:], strict=True)
        for ratio in _stage_ratios(name, label, stages[0][name], one[name])
    ]
    return LoadComparison(
        labels=tuple(labels), num_runs=counts[labels[0]], ratios=tuple(ratios), remarks=tuple(_remarks(runs, stages))
    )


def _stages(reports: Sequence[LoadReport]) -> dict[str, list[StageResult]]:
    """Stage label to its result in every run; stages that a run lacks, or answered nothing in, are left out."""
    names = [one.stage.label for one in reports[0].stages]
    found = {}
    for name in names:
        same = [one for report in reports for one in report.stages if one.stage.label == name and one.figures.completed]
        if len(same) == len(reports):
            found[name] = same
    return found


def _stage_ratios(
    stage: str, label: str, first: Sequence[StageResult], other: Sequence[StageResult]
) -> list[FigureRatio]:
    found = []
    rows = [("output tokens/s", "", True), ("requests/s", "", True), ("goodput/s", "", True)]
    for name, unit, more in rows:
        pair = [[_rate(one.figures, name) for one in side] for side in (first, other)]
        found += _ratio(stage, label, name, unit, more, pair[0], pair[1], _rate_interval(name, first, other))
    view = first[0].stage.is_open
    for measure, statistic in LATENCY_FIGURES:
        pair = [[_latency(one, measure, statistic) for one in side] for side in (first, other)]
        name = f"{measure.upper() if measure != 'e2e' else 'end to end'} {statistic}"
        ends = _latency_interval(measure, statistic, first, other, scheduled=view) if len(first) == 1 else None
        found += _ratio(stage, label, name, "ms", False, pair[0], pair[1], ends)
    itl = [
        [one.figures.sent["itl"].mean * 1e3 if "itl" in one.figures.sent else None for one in side]
        for side in (first, other)
    ]
    found += _ratio(stage, label, "ITL mean", "ms", False, itl[0], itl[1], None)
    return found


def _ratio(
    stage: str,
    label: str,
    figure: str,
    unit: str,
    more: bool,
    first: Sequence[float | None],
    other: Sequence[float | None],
    ends: tuple[float, float] | None,
) -> list[FigureRatio]:
    """The ratio as a list of one; empty where a run has no such figure."""
    a = [one for one in first if one is not None and one > 0]
    b = [one for one in other if one is not None and one > 0]
    if len(a) != len(first) or len(b) != len(other):
        return []
    ratio = paired_ratio(b, a)
    low, high, covers = (None, None, None) if ends is None else (*ends, 0.95)
    if len(a) > 1:
        low, high, covers = ratio.low, ratio.high, ratio.coverage
    return [
        FigureRatio(
            stage=stage,
            figure=figure,
            unit=unit,
            more_is_better=more,
            label=label,
            values=(_median(a), _median(b)),
            ratio=ratio.median,
            low=low,
            high=high,
            covers=covers,
        )
    ]


def _rate(figures: StageFigures, name: str) -> float | None:
    if name == "goodput/s":
        return figures.goodput
    span = figures.steady if figures.steady is not None and figures.steady.output_tokens is not None else figures.whole
    return span.output_tokens if name == "output tokens/s" else span.requests


def _rate_interval(name: str, first: Sequence[StageResult], other: Sequence[StageResult]) -> tuple[float, float] | None:
    """Of one run each: relative errors of both output rates, added as independent ones."""
    if name != "output tokens/s" or len(first) != 1:
        return None
    logs, ratio = 0.0, 1.0
    for one, sign in ((first[0].figures, -1), (other[0].figures, 1)):
        if one.output_interval is None or one.steady is None or not one.steady.output_tokens:
            return None
        low, high = one.output_interval
        logs += ((high - low) / 2 / one.steady.output_tokens) ** 2
        ratio *= one.steady.output_tokens**sign
    spread = math.exp(math.sqrt(logs))
    return ratio / spread, ratio * spread


def _latency(one: StageResult, measure: str, statistic: str) -> float | None:
    view = one.figures.scheduled if one.stage.is_open and measure != "tpot" else one.figures.sent
    return view[measure].figure(statistic) * 1e3 if measure in view else None


def _latency_interval(
    measure: str, statistic: str, first: Sequence[StageResult], other: Sequence[StageResult], *, scheduled: bool
) -> tuple[float, float] | None:
    rows = [latencies(side[0].recording.records, measure, scheduled=scheduled) for side in (first, other)]
    if min(len(row) for row in rows) < 8:
        return None
    a, b = (resampled(row, seed=place)[statistic] for place, row in enumerate(rows))
    return interval(b / a) if (a > 0).all() else None


def _remarks(
    runs: Mapping[str, Sequence[LoadReport]], stages: Sequence[Mapping[str, Sequence[StageResult]]]
) -> list[str]:
    """Differences between what the runs asked, and runs that are not whole."""
    remarks = []
    reports = [(label, report) for label, some in runs.items() for report in some]
    for name in SAME_IN_ALL:
        values = {label: str(report.options.get(name)) for label, report in reports}
        if len(set(values.values())) > 1:
            remarks.append(f"{name} differs: " + "; ".join(f"{label} {value}" for label, value in values.items()))
    machines = {report.machine.split(",")[0] for _, report in reports}
    if len(machines) > 1:
        remarks.append(f"the clients ran on different machines: {', '.join(sorted(machines))}")
    for label, report in reports:
        if report.partial:
            remarks.append(f"a run of {label} was interrupted")
        limited = [one.stage.label for one in report.stages if one.recording.client.was_the_limit]
        if limited:
            remarks.append(f"the client was the limit in a run of {label}: {', '.join(limited)}")
        failed = sum(one.figures.failed for one in report.stages)
        if failed:
            remarks.append(f"{failed} requests failed in a run of {label}")
    left_out = sorted({name for one in stages for name in one if not all(name in other for other in stages)})
    if left_out:
        remarks.append(f"stages that not all results have are left out: {', '.join(left_out)}")
    return list(dict.fromkeys(remarks))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
