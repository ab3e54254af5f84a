"""The demo as one table, as answers side by side, and as a page. It measures nothing."""

from flyweight.evaluation.golden import TaskResult
from flyweight.evaluation.report import EvaluationReport, TextResult
from flyweight.evaluation.statistics import Figure
from flyweight.reporting import (
    Block,
    Page,
    Plot,
    Series,
    Table,
    Text,
    format_bytes,
    format_interval,
    format_seconds,
    plot_bars,
    plot_points,
)
from flyweight.shipping.demo import ORIGINAL, Demo


def demo_table(demo: Demo) -> Table:
    """Everything measured: one column per model, the original first; narrow enough for 80 characters."""
    first = demo.models[0].report
    text, tasks = _text(first), _tasks(first)
    assert text.original is not None
    compared = [_text(one.report) for one in demo.models]
    found = [one.comparison for one in compared if one.comparison is not None]
    facts = [one for one in (first.against, *(each.report.model for each in demo.models)) if one is not None]
    speeds = [demo.speeds[name] for name in (ORIGINAL, *(one.name for one in demo.models))]
    rows: list[tuple[str, ...]] = [
        ("weights", *(format_bytes(one.weight_bytes) for one in facts)),
        ("bits per weight", *(f"{one.bits_per_weight:.2f}" for one in facts)),
        ("perplexity", *(_narrow(one) for one in (text.original.token, *(each.perplexity.token for each in compared)))),
        ("to original's", "", *(_narrow(one.ppl_ratio, places=3) for one in found)),
        ("KL, millinats", "", *(_narrow(one.kl_mean, factor=1000) for one in found)),
        ("same top-1, %", "", *(_narrow(one.top1, factor=100) for one in found)),
        ("golden right, %", *("" for _ in facts)),
    ]
    for row, task in enumerate(tasks):
        assert task.original is not None
        shares = [task.original, *(_tasks(one.report)[row].exact_match for one in demo.models)]
        rows.append((f" {task.task}", *(f"{100 * one.value:.0f}" for one in shares)))
    rows += [
        ("tokens/s", *(f"{one.median:.0f}\n{one.lowest:.0f}–{one.highest:.0f}" for one in speeds)),
        ("compressed in", "", *(format_seconds(one.compress_seconds) for one in demo.models)),
    ]
    interval = text.perplexity.token
    return Table(
        title="The demo model, compressed",
        columns=("", ORIGINAL, *(one.name for one in demo.models)),
        rows=tuple(rows),
        note=(
            f"perplexity, KL and top-1 per token on {text.protocol.num_tokens_scored} tokens, below them "
            f"{100 * interval.confidence:g} % intervals ({interval.interval}); golden: greedy answers exactly right, "
            f"{tasks[0].exact_match.num_samples} prompts a task; tokens/s: one stream, median and extremes of "
            f"{speeds[0].num_decodes} x {speeds[0].num_tokens} tokens, models in turns"
        ),
    )


def _narrow(figure: Figure, *, factor: float = 1.0, places: int | None = None) -> str:
    """The value, and below it the interval as a range; three significant digits, or so many decimal places."""
    value, low, high = (
        factor * (figure.value if one is None else one) for one in (figure.value, figure.low, figure.high)
    )
    if places is not None:
        return f"{value:.{places}f}\n{low:.{places}f}–{high:.{places}f}"
    return format_interval(value, low, high).replace(" [", "\n").replace(", ", "–").replace("]", "")


def answers_table(demo: Demo) -> Table:
    """What each model answers to the same question."""
    question = demo.question.messages[-1]["content"]
    rows = [("asked", question), ("expected", demo.question.expected), *demo.answers.items()]
    return Table(title="One question to all", columns=("", ""), rows=tuple(rows), num_labels=2)


def demo_page(demo: Demo) -> Page:
    """The demo as a page; each model's own report lies beside it."""
    reports = ", ".join(one.report_path.name for one in demo.models)
    report = demo.models[0].report
    blocks: list[Block] = [
        demo_table(demo),
        answers_table(demo),
        Plot(
            title="Size and distance from the original",
            svg=plot_points(
                [
                    Series(
                        name=one.name,
                        values=[_kl(one.report)[0]],
                        low=[_kl(one.report)[1]],
                        high=[_kl(one.report)[2]],
                        x=[one.report.model.bits_per_weight],
                    )
                    for one in demo.models
                ],
                xlabel="bits per weight",
                ylabel="mean KL, nats per token",
                log_y=True,
            ),
            caption="lower and further left is better",
        ),
        Plot(title="Golden prompts answered exactly", svg=_golden_bars(demo)),
        Text(text=f"Each model's own report, with protocol, intervals and flips: {reports}."),
        Text(
            text=f"Made on {report.machine}, flyweight {report.flyweight_version}, in {format_seconds(demo.seconds)}."
        ),
    ]
    return Page(title="Flyweight demo", subtitle=f"{report.date}, flyweight demo", blocks=tuple(blocks))


def _golden_bars(demo: Demo) -> str:
    tasks = _tasks(demo.models[0].report)
    series = [Series(name=ORIGINAL, values=[0.0 if one.original is None else one.original.value for one in tasks])]
    series += [
        Series(name=one.name, values=[task.exact_match.value for task in _tasks(one.report)]) for one in demo.models
    ]
    return plot_bars([one.task for one in tasks], series, ylabel="exact match", top=1.0)


def _text(report: EvaluationReport) -> TextResult:
    assert report.text is not None
    return report.text


def _tasks(report: EvaluationReport) -> tuple[TaskResult, ...]:
    assert report.golden is not None
    return report.golden.tasks


def _kl(report: EvaluationReport) -> tuple[float, float, float]:
    comparison = _text(report).comparison
    assert comparison is not None
    found = comparison.kl_mean
    return (
        found.value,
        found.value if found.low is None else found.low,
        found.value if found.high is None else found.high,
    )
