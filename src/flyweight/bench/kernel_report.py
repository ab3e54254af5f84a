"""The result of a kernel benchmark: as JSON, as tables, as a page with rooflines. It measures nothing."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from flyweight.bench.cases import Arithmetic, Kind, Memory
from flyweight.bench.limits import MachineLimits
from flyweight.bench.roofline import plot_roofline
from flyweight.bench.statistics import Spread
from flyweight.reporting import Block, Facts, Page, Plot, Series, Table, plot_lines

NOTE = (
    "median [smallest, largest] of the rounds; shares of the medians of the limits: what part of the time the bytes "
    "that must be moved, and the operations that must be done, would take at the limit; the larger one says what bounds"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelResult:
    """One case on one instruction set.

    Attributes:
        seconds: of one call.
        memory_share, arithmetic_share: the least time by bandwidth, and by arithmetic, over the median time; 0 for
            arithmetic where it is not what the case costs.
    """

    isa: str
    name: str
    kind: Kind
    size: str
    rows: int
    nbytes: int
    operations: int
    arithmetic: Arithmetic | None
    memory: Memory
    seconds: Spread
    memory_share: float
    arithmetic_share: float

    @property
    def median_seconds(self) -> float:
        return self.seconds.median

    @property
    def share(self) -> float:
        """Share of the limit that bounds the case."""
        return max(self.memory_share, self.arithmetic_share)


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelReport:
    """Everything that a run found; one entry of ``limits`` for each instruction set."""

    flyweight_version: str
    machine: str
    date: str
    shape: str
    rounds: int
    limits: tuple[MachineLimits, ...]
    results: tuple[KernelResult, ...]

    def to_json(self) -> str:
        """All of it as JSON; rates are per second, times in seconds."""
        return json.dumps(asdict(self), indent=2)


def report_tables(report: KernelReport) -> tuple[Table, ...]:
    """The limits, then one table of kernels for each instruction set."""
    tables = [_limits_table(report.limits)]
    for limits in report.limits:
        rows = tuple(_row(one) for one in report.results if one.isa == limits.isa)
        tables.append(
            Table(
                title=f"Kernels at the sizes of {report.shape}, {limits.isa}, {limits.threads} threads",
                columns=(
                    "kernel",
                    "size",
                    "rows",
                    "microseconds",
                    "GB/s",
                    "of bandwidth",
                    "Gop/s",
                    "of peak",
                    "bound by",
                ),
                rows=rows,
                num_labels=2,
                note=NOTE,
            )
        )
    return tuple(tables)


def report_page(report: KernelReport) -> Page:
    """The report as a page with a roofline and shares over row counts for each instruction set."""
    blocks: list[Block] = []
    for limits in report.limits:
        mine = [one for one in report.results if one.isa == limits.isa]
        bounded = [one for one in mine if one.arithmetic is not None]
        if bounded:
            blocks.append(
                Plot(
                    title=f"Roofline, {limits.isa}",
                    svg=plot_roofline(limits, bounded),
                    caption="lines are the measured limits, points the kernels",
                )
            )
        blocks += _share_plots(limits.isa, mine)
    blocks += report_tables(report)
    blocks.append(
        Facts(
            title="How it was made",
            facts={
                "flyweight": report.flyweight_version,
                "machine": report.machine,
                "date": report.date,
                "rounds": str(report.rounds),
            },
        )
    )
    return Page(
        title=f"Kernels at the sizes of {report.shape}",
        subtitle=f"flyweight bench kernels, {report.date}",
        blocks=tuple(blocks),
    )


def _limits_table(found: Sequence[MachineLimits]) -> Table:
    def cell(spread: Spread) -> str:
        return f"{spread.median / 1e9:.1f} [{spread.smallest / 1e9:.1f}, {spread.largest / 1e9:.1f}]"

    rows = tuple(
        (
            one.isa,
            str(one.threads),
            cell(one.bandwidth["memory"]),
            cell(one.bandwidth["cache"]),
            cell(one.rate["int4"]),
            cell(one.rate["int8"]),
            cell(one.rate["bfloat16"]),
        )
        for one in found
    )
    return Table(
        title="Limits measured in this run",
        columns=("", "threads", "memory, GB/s", "cache, GB/s", "int4 x int8, Gop/s", "int8, Gop/s", "bfloat16, Gop/s"),
        rows=rows,
        note="median [smallest, largest] of the probes; an operation is a multiplication or an addition",
    )


def _row(one: KernelResult) -> tuple[str, ...]:
    seconds, micro = one.seconds, 1e6
    bound = one.memory if one.memory_share >= one.arithmetic_share else str(one.arithmetic)
    return (
        one.name,
        one.size,
        str(one.rows),
        f"{seconds.median * micro:.1f} [{seconds.smallest * micro:.1f}, {seconds.largest * micro:.1f}]",
        f"{one.nbytes / seconds.median / 1e9:.1f}",
        f"{100 * one.memory_share:.0f} %",
        f"{one.operations / seconds.median / 1e9:.1f}",
        f"{100 * one.arithmetic_share:.0f} %" if one.arithmetic else "",
        bound,
    )


def _share_plots(isa: str, results: Sequence[KernelResult]) -> list[Block]:
    """Shares of the bounding limit over the rows of a call, one plot for linear layers and one for attention."""
    blocks: list[Block] = []
    for kind in ("linear", "attention"):
        names = dict.fromkeys(one.name for one in results if one.kind == kind)
        series = []
        for name in names:
            mine = sorted((one for one in results if one.name == name), key=lambda one: one.rows)
            if len(mine) > 1:
                series.append(Series(name=name, values=[100 * one.share for one in mine], x=[one.rows for one in mine]))
        blocks += [
            Plot(
                title=f"Share of the bounding limit, {kind}, {isa}",
                svg=plot_lines(series[first : first + 6], xlabel="rows of a call", ylabel="% of the limit"),
            )
            for first in range(0, len(series), 6)
        ]
    return blocks
