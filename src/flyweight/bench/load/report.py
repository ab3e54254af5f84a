"""A load report on the terminal and as a page. It formats and draws; all figures come from the report."""

from collections.abc import Sequence

from flyweight.bench.load.distributions import Distribution
from flyweight.bench.load.figures import StageFigures
from flyweight.bench.load.report_plots import load_plots
from flyweight.bench.load.result import LoadReport, StageResult
from flyweight.reporting import Block, Facts, Page, Table, Text, Verdict, format_interval

NAMES = {
    "ttft": "first token (TTFT)",
    "tpot": "per output token (TPOT)",
    "itl": "inter-token (ITL)",
    "e2e": "end to end",
}
LATENCY_NOTE = (
    "milliseconds; means with 95 % intervals by a bootstrap of blocks of neighbouring requests. TPOT = (e2e - TTFT) / "
    "(output tokens - 1); ITL = gap / tokens of the event that ended it."
)
CLOSED_NOTE = (
    " A closed loop waits for answers: a stall delays what would have been sent meanwhile, and that does not show."
)
SCHEDULE_NOTE = " 'due': from when the request was due, so that waiting in the client and stalls of the server count."


def report_tables(report: LoadReport) -> tuple[Table, ...]:
    """Throughput, latencies, and failures where there are any."""
    tables = [_throughput(report), _latencies(report)]
    failures = tuple(
        (one.stage.label, reason, str(count)) for one in report.stages for reason, count in one.figures.failures.items()
    )
    if failures:
        tables.append(Table(title="Failures", columns=("stage", "reason", "requests"), rows=failures, num_labels=2))
    return tuple(tables)


def report_remarks(report: LoadReport) -> tuple[str, ...]:
    """What a reader must know before believing the figures; empty where there is nothing."""
    remarks = ["This run was interrupted: the figures are of the requests that had ended."] if report.partial else []
    remarks += report.notes
    stages: dict[str, list[str]] = {}
    for one in report.stages:
        for remark in _stage_remarks(one):
            stages.setdefault(remark, []).append(one.stage.label)
    for remark, labels in stages.items():
        everywhere = len(labels) == len(report.stages) > 1
        remarks.append(f"{'every stage' if everywhere else ', '.join(labels)}: {remark}")
    return tuple(remarks)


def _stage_remarks(one: StageResult) -> list[str]:
    figures, client = one.figures, one.recording.client
    remarks = [f"the client was the limit: {'; '.join(client.verdicts)}"] if client.was_the_limit else []
    if figures.tokens_from.get("unknown"):
        remarks.append("the server tells no usage, and no --tokenizer was given: tokens are not counted")
    if figures.tokens_from.get("tokenizer"):
        remarks.append("the server tells no usage: output tokens were counted by the tokenizer")
    if figures.tokens_per_event.get("estimated"):
        remarks.append(
            f"{figures.tokens_per_event['estimated']} answers had several tokens per event and the server does not say "
            f"how many: ITL is estimated from the length of the text"
        )
    if figures.short_answers:
        remarks.append(f"{figures.short_answers} answers were shorter than was asked for")
    wanted, got = figures.wanted_input_mean, figures.input_mean
    if wanted is not None and got is not None and abs(got - wanted) > 0.05 * wanted:
        remarks.append(f"prompts had {got:.0f} tokens on average where {wanted:.0f} were wanted")
    return remarks


def report_page(report: LoadReport) -> Page:
    """The report as a page with plots."""
    limits = [one for one in report.stages if one.recording.client.was_the_limit]
    verdict = Verdict(
        passed=not limits,
        text="the client kept up"
        if not limits
        else f"the client was the limit in {len(limits)} of {len(report.stages)} stages",
    )
    blocks: list[Block] = [verdict]
    blocks += [Text(text=remark) for remark in report_remarks(report)]
    blocks += report_tables(report)
    blocks += load_plots(report)
    blocks.append(_client_table(report))
    blocks.append(Facts(title="Server", facts={"url": report.url, "model": report.model, **report.server}))
    made = {
        "flyweight": report.flyweight_version,
        "machine of the client": report.machine,
        "date": report.date,
        "warm-up requests, in no figure": str(report.warm_up),
        **report.client,
    }
    blocks.append(Facts(title="How it was made", facts=made))
    given = {name: _option(value) for name, value in report.options.items() if value not in (None, [], ())}
    blocks.append(Facts(title="Options", facts=given))
    return Page(
        title=f"{report.model} under load",
        subtitle=f"flyweight bench load {report.url}, {report.date}",
        blocks=tuple(blocks),
    )


def stage_rows(figures: StageFigures) -> dict[str, str]:
    """One stage's amounts, by column."""
    steady = figures.steady
    output = "-"
    if steady is not None and steady.output_tokens is not None:
        ends = figures.output_interval or (None, None)
        output = format_interval(steady.output_tokens, *ends)
    return {
        "answered": str(figures.completed),
        "failed": str(figures.failed + figures.interrupted),
        "requests/s": f"{figures.whole.requests:.3g}",
        "output tokens/s": plain(figures.whole.output_tokens),
        "steady output tokens/s": output,
        "all tokens/s": plain(figures.whole.total_tokens),
        "goodput/s": "-" if figures.goodput is None else f"{figures.goodput:.3g} ({figures.good_share or 0:.0%})",
        "most in flight": str(figures.most_in_flight),
    }


def plain(value: float | None) -> str:
    """Three significant digits; a dash for what is not known."""
    return "-" if value is None else format_interval(value, None, None)


def milliseconds(seconds: float) -> str:
    """In milliseconds: three significant digits, and whole numbers from 100 on.

    >>> milliseconds(0.01234), milliseconds(1.5)
    ('12.3', '1500')
    """
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _throughput(report: LoadReport) -> Table:
    rows = [stage_rows(one.figures) for one in report.stages]
    columns = list(rows[0]) if rows else ["answered"]
    if not report.levels and "goodput/s" in columns:
        columns.remove("goodput/s")
    levels = f"; goodput: {' '.join(report.levels)}" if report.levels else ""
    return Table(
        title=f"{report.model}: throughput",
        columns=("stage", *columns),
        rows=tuple(
            (one.stage.label, *(row[name] for name in columns)) for one, row in zip(report.stages, rows, strict=True)
        ),
        note=(
            "per second from the start of a stage to its last answer; steady: while load was offered, after it had "
            f"filled up{levels}"
        ),
    )


def _latencies(report: LoadReport) -> Table:
    rows = []
    any_open = any(one.stage.is_open for one in report.stages)
    for one in report.stages:
        for measure, name in NAMES.items():
            if measure in one.figures.sent:
                rows.append(
                    (
                        one.stage.label,
                        f"{name}{', sent' if any_open and measure in ('ttft', 'e2e') else ''}",
                        *_cells(one.figures.sent[measure]),
                    )
                )
            if one.stage.is_open and measure in one.figures.scheduled:
                rows.append((one.stage.label, f"{name}, due", *_cells(one.figures.scheduled[measure])))
    return Table(
        title=f"{report.model}: latency",
        columns=("stage", "measure", "mean", "p50", "p90", "p95", "p99", "largest"),
        rows=tuple(rows),
        num_labels=2,
        note=LATENCY_NOTE + (SCHEDULE_NOTE if any_open else CLOSED_NOTE),
    )


def _cells(one: Distribution) -> tuple[str, ...]:
    low, high = one.intervals.get("mean", (None, None))
    mean = milliseconds(one.mean)
    if low is not None and high is not None:
        mean += f" [{milliseconds(low)}, {milliseconds(high)}]"
    return (mean, *(milliseconds(value) for value in (one.p50, one.p90, one.p95, one.p99, one.largest)))


def _client_table(report: LoadReport) -> Table:
    def row(one: StageResult) -> tuple[str, ...]:
        client = one.recording.client
        late = "-" if client.late_sends_p99 is None else milliseconds(client.late_sends_p99)
        return (
            one.stage.label,
            milliseconds(client.loop_lag_mean),
            milliseconds(client.loop_lag_p99),
            milliseconds(client.loop_lag_max),
            f"{client.cpu_share:.1%}",
            late,
        )

    return Table(
        title="The client itself",
        columns=("stage", "loop lag, mean", "p99", "largest", "CPU, of a core", "late sends, p99"),
        rows=tuple(row(one) for one in report.stages),
        note="milliseconds; a client that is late measures itself",
    )


def _option(value: object) -> str:
    return (
        " ".join(str(one) for one in value)
        if isinstance(value, Sequence) and not isinstance(value, str)
        else str(value)
    )
