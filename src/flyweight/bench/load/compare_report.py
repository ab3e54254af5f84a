"""A comparison of load results on the terminal and as a page."""

from collections.abc import Mapping, Sequence

from flyweight.bench.load.compare import FigureRatio, LoadComparison
from flyweight.bench.load.report import plain
from flyweight.bench.load.report_plots import TITLES, cumulative, curve
from flyweight.bench.load.result import LoadReport
from flyweight.reporting import Block, Facts, Page, Table, Text


def comparison_table(found: LoadComparison) -> Table:
    """One row per stage, figure and label."""
    first = found.labels[0]
    note = f"ratio: the other's figure over that of {first}. "
    if found.num_runs > 1:
        note += f"Medians of {found.num_runs} runs each; the ratio is the median over pairs of runs, "
        note += "its interval by order statistics."
    else:
        note += "Intervals (95 %) by resampling requests in blocks; of output tokens/s from slices of time."
    return Table(
        title="Side by side",
        columns=("stage", "figure", "of", first, "the other", "ratio", "interval", "which is better"),
        rows=tuple(
            (
                one.stage,
                f"{one.figure}{', ' + one.unit if one.unit else ''}",
                one.label,
                plain(one.values[0]),
                plain(one.values[1]),
                f"{one.ratio:.3f}",
                _interval(one),
                _better(one, first),
            )
            for one in found.ratios
        ),
        num_labels=3,
        note=note,
    )


def comparison_page(found: LoadComparison, runs: Mapping[str, Sequence[LoadReport]]) -> Page:
    """The comparison as a page; plots show the first run of each label."""
    blocks: list[Block] = [Text(text=remark) for remark in found.remarks]
    blocks.append(comparison_table(found))
    stages = {label: {one.stage.label: one for one in reports[0].stages} for label, reports in runs.items()}
    names = list(dict.fromkeys(one.stage for one in found.ratios))
    for name in names[:1] + names[1:][-1:]:
        for measure in TITLES:
            plot = cumulative(
                measure,
                [(f"{label}, {name}", of_label[name]) for label, of_label in stages.items() if name in of_label],
            )
            if plot is not None:
                blocks.append(plot)
    if len(names) > 1:
        blocks.append(curve([(label, reports[0].stages) for label, reports in runs.items()]))
    for label, reports in runs.items():
        facts = {
            "url": reports[0].url,
            "model": reports[0].model,
            "date": reports[0].date,
            "client": reports[0].machine,
        }
        blocks.append(Facts(title=label, facts={**facts, **reports[0].server}))
    return Page(title=" beside ".join(found.labels), subtitle="flyweight bench load-compare", blocks=tuple(blocks))


def _interval(one: FigureRatio) -> str:
    if one.low is None or one.high is None or one.covers is None:
        return "-"
    return f"[{one.low:.3f}, {one.high:.3f}]" + ("" if one.covers == 0.95 else f" covers {one.covers:.0%}")


def _better(one: FigureRatio, first: str) -> str:
    """Who is better, where the interval leaves out 1."""
    if one.low is None or one.high is None or one.low <= 1 <= one.high:
        return "not told apart"
    return one.label if (one.ratio > 1) == one.more_is_better else first
