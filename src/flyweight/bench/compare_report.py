"""The result of a comparison: as JSON, as tables, as a page. It computes ratios and nothing else."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from flyweight.bench.statistics import Ratio, Spread, paired_ratio, summarize
from flyweight.bench.tasks import FIGURES
from flyweight.reporting import Block, Facts, Page, Plot, Series, Table, format_bytes, plot_bars

NOTE = (
    "medians [smallest, largest]; times better: median over the rounds of ours against the peer's neighbouring "
    "measurement, turned so that above 1 is better for us, with the interval of the median by order statistics"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFacts:
    """Who was measured: the model's path, how it is measured, what it says of itself, and the command of each task."""

    label: str
    model: str
    protocol: str
    facts: Mapping[str, str]
    commands: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """One task: for each engine the figures of every round, or why there are none."""

    task: str
    figures: Mapping[str, list[dict[str, float]]]
    failures: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """The figures that any engine has, in the order of ``tasks.FIGURES``."""
        found = {name for rounds in self.figures.values() for one in rounds for name in one}
        return [name for name in FIGURES if name in found]

    def values(self, label: str, name: str) -> list[float]:
        """One engine's measurements of one figure; empty where it has none."""
        return [one[name] for one in self.figures.get(label, []) if name in one]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One figure of one peer beside ours. ``ratio`` is above 1 where ours is better."""

    task: str
    figure: str
    unit: str
    label: str
    ours: Spread
    theirs: Spread
    ratio: Ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareReport:
    """Everything that a comparison found; the first of ``engines`` is ours."""

    flyweight_version: str
    machine: str
    date: str
    model: str
    threads: int
    rounds: int
    engines: tuple[EngineFacts, ...]
    results: tuple[TaskResult, ...]

    def comparisons(self, ours: str = "flyweight") -> tuple[Comparison, ...]:
        """Every figure that we and a peer both have."""
        found = []
        for result in self.results:
            for name in result.names:
                our_values = result.values(ours, name)
                for label in result.figures:
                    values = result.values(label, name)
                    if label == ours or not values or not our_values:
                        continue
                    found.append(_compare(result.task, name, label, our_values, values))
        return tuple(found)

    def to_json(self) -> str:
        """All of it as JSON, the ratios included."""
        return json.dumps({**asdict(self), "comparisons": [asdict(one) for one in self.comparisons()]}, indent=2)


def _compare(task: str, name: str, label: str, ours: list[float], theirs: list[float]) -> Comparison:
    figure = FIGURES[name]
    pairs = min(len(ours), len(theirs))
    first, second = (ours[:pairs], theirs[:pairs]) if figure.more_is_better else (theirs[:pairs], ours[:pairs])
    return Comparison(
        task=task,
        figure=name,
        unit=figure.unit,
        label=label,
        ours=summarize(ours),
        theirs=summarize(theirs),
        ratio=paired_ratio(first, second),
    )


def report_tables(report: CompareReport) -> tuple[Table, ...]:
    """One table of measurements, one of ratios, and one of failures where there are any."""
    labels = [engine.label for engine in report.engines]
    measured = []
    for result in report.results:
        for name in result.names:
            unit = "" if FIGURES[name].unit == "bytes" else f", {FIGURES[name].unit}"
            cells = [_cell(name, result.values(label, name)) for label in labels]
            measured.append((result.task, f"{name}{unit}", *cells))
    tables = [
        Table(
            title=f"Measured with {report.threads} threads, {report.rounds} rounds in turn",
            columns=("task", "figure", *labels),
            rows=tuple(measured),
            num_labels=2,
            note=NOTE.split(";")[0],
        )
    ]
    ratios = tuple(
        (one.task, one.figure, one.label, f"{one.ratio.median:.2f}", _interval(one.ratio))
        for one in report.comparisons()
    )
    if ratios:
        tables.append(
            Table(
                title="Ours against each peer",
                columns=("task", "figure", "peer", "times better", "interval"),
                rows=ratios,
                num_labels=3,
                note=NOTE,
            )
        )
    failures = tuple(
        (result.task, label, reason) for result in report.results for label, reason in result.failures.items()
    )
    if failures:
        tables.append(Table(title="Not measured", columns=("task", "engine", "reason"), rows=failures, num_labels=3))
    return tuple(tables)


def report_page(report: CompareReport) -> Page:
    """The report as a page with a plot of the ratios."""
    blocks: list[Block] = [*report_tables(report)]
    blocks += _plots(report)
    for engine in report.engines:
        commands = {f"command of {task}": command for task, command in engine.commands.items() if command}
        blocks.append(
            Facts(
                title=engine.label,
                facts={"model": engine.model, "protocol": engine.protocol, **engine.facts, **commands},
            )
        )
    blocks.append(
        Facts(
            title="How it was made",
            facts={
                "flyweight": report.flyweight_version,
                "machine": report.machine,
                "date": report.date,
                "threads": str(report.threads),
                "rounds": str(report.rounds),
            },
        )
    )
    return Page(
        title=f"{report.model} and its peers", subtitle=f"flyweight bench compare, {report.date}", blocks=tuple(blocks)
    )


def _plots(report: CompareReport) -> list[Block]:
    """One plot of ratios per task."""
    blocks: list[Block] = []
    found = report.comparisons()
    for result in report.results:
        of_task = [one for one in found if one.task == result.task]
        names = [name for name in result.names if any(one.figure == name for one in of_task)]
        series = []
        for label in dict.fromkeys(one.label for one in of_task):
            mine = {one.figure: one.ratio for one in of_task if one.label == label}
            if set(mine) == set(names):
                series.append(
                    Series(
                        name=label,
                        values=[mine[name].median for name in names],
                        low=[mine[name].low for name in names],
                        high=[mine[name].high for name in names],
                    )
                )
        if series:
            blocks.append(
                Plot(
                    title=f"{result.task}: times better than the peer",
                    svg=plot_bars(names, series, ylabel="times better"),
                    caption="above 1 ours is better; whiskers are the intervals of the medians",
                )
            )
    return blocks


def _cell(name: str, values: list[float]) -> str:
    if not values:
        return "-"
    spread = summarize(values)
    if FIGURES[name].unit == "bytes":
        return format_bytes(int(spread.median))
    if spread.count == 1:
        return _plain(spread.median)
    return f"{_plain(spread.median)} [{_plain(spread.smallest)}, {_plain(spread.largest)}]"


def _plain(value: float) -> str:
    """Three significant digits without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _interval(ratio: Ratio) -> str:
    if ratio.num_pairs == 1:
        return "one measurement"
    return f"[{ratio.low:.2f}, {ratio.high:.2f}] covers {100 * ratio.coverage:.0f} %"
