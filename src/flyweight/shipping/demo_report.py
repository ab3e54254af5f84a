"""The demo as one table, as answers side by side, and as a page. It measures nothing."""

from flyweight.evaluation.golden import TaskResult
from flyweight.evaluation.render import show, show_share
from flyweight.evaluation.report import EvaluationReport, ModelFacts, TextResult
from flyweight.reporting import (
    Block,
    Page,
    Plot,
    Series,
    Table,
    Text,
    format_bytes,
    format_seconds,
    plot_bars,
    plot_points,
)
from flyweight.shipping.demo import ORIGINAL, Demo


def demo_table(demo: Demo) -> Table:
    """Everything measured: one column per model, the original first."""
    first = demo.models[0].report
    rows: list[tuple[str, ...]] = [
        ("weights on disk", *(format_bytes(facts.weight_bytes) for facts in _facts(demo))),
        ("bits per weight", *(f"{facts.bits_per_weight:.2f}" for facts in _facts(demo))),
    ]
    text, golden = _text(first), _tasks(first)
    assert text.original is not None
    compared = [_text(one.report) for one in demo.models]
    rows.append(("perplexity per token", show(text.original.token), *(show(one.perplexity.token) for one in compared)))
    found = [one.comparison for one in compared if one.comparison is not None]
    rows += [
        ("perplexity / original's", "", *(show(one.ppl_ratio) for one in found)),
        ("KL to original, nats", "", *(show(one.kl_mean, 3) for one in found)),
        ("same top token", "", *(show_share(one.top1) for one in found)),
    ]
    for row, task in enumerate(golden):
        assert task.original is not None
        each = [_tasks(one.report)[row].exact_match for one in demo.models]
        rows.append((f"golden {task.task}", *(f"{100 * one.value:.0f} %" for one in (task.original, *each))))
    speeds = [demo.speeds[name] for name in (ORIGINAL, *(one.name for one in demo.models))]
    rows += [
        ("tokens/s, one stream", *(f"{one.median:.0f} [{one.lowest:.0f}, {one.highest:.0f}]" for one in speeds)),
        ("time to compress", "", *(format_seconds(one.compress_seconds) for one in demo.models)),
    ]
    prompts = golden[0].exact_match.num_samples
    note = (
        f"{text.protocol.num_tokens_scored} tokens, {text.perplexity.token.interval}; brackets: "
        f"{100 * text.perplexity.token.confidence:g} % intervals; golden: {prompts} prompts a task, exact match; "
        f"tokens/s: median [lowest, highest] of {speeds[0].num_decodes} x {speeds[0].num_tokens} tokens, in turns"
    )
    return Table(
        title="The demo model, compressed",
        columns=("", ORIGINAL, *(one.name for one in demo.models)),
        rows=tuple(rows),
        note=note,
    )


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


def _facts(demo: Demo) -> list[ModelFacts]:
    original = demo.models[0].report.against
    assert original is not None
    return [original, *(one.report.model for one in demo.models)]


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
