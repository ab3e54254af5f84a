"""An evaluation report as tables and as a page. It computes nothing: every number is read from the report."""

import math

from flyweight.evaluation.golden import GoldenResult, TaskResult
from flyweight.evaluation.report import EvaluationReport, Perplexities, TextResult
from flyweight.evaluation.statistics import Figure
from flyweight.reporting import (
    Block,
    Facts,
    Page,
    Plot,
    Series,
    Table,
    Verdict,
    format_bytes,
    format_interval,
    format_seconds,
    plot_bars,
    plot_counts,
    plot_points,
)

MOST_ANSWERS = 40


def show(figure: Figure, digits: int = 4) -> str:
    """A figure with its interval."""
    return format_interval(figure.value, figure.low, figure.high, digits)


def show_share(figure: Figure) -> str:
    """A share, or a change of one, in percent with its interval."""
    places = 1 if abs(figure.value) >= 0.01 or figure.value == 0 else 4
    if figure.low is None or figure.high is None:
        return f"{100 * figure.value:.{places}f} %"
    return f"{100 * figure.value:.{places}f} % [{100 * figure.low:.{places}f}, {100 * figure.high:.{places}f}]"


def report_tables(report: EvaluationReport) -> tuple[Table, ...]:
    """Every table of the report, in the order in which they are read."""
    tables = [_model_table(report)]
    if report.text is not None:
        tables += [_protocol_table(report.text), _perplexity_table(report.text)]
        if report.text.comparison is not None:
            tables.append(_comparison_table(report.text))
    if report.golden is not None:
        tables.append(_golden_table(report.golden))
    return tuple(tables)


def verdict_text(report: EvaluationReport) -> str:
    """The gate's verdict, one limit a line; failed ones first. Empty without a gate."""
    if report.gate is None:
        return ""
    checks = sorted(report.gate.checks, key=lambda check: check.passed)
    lines = [f"{'kept  ' if check.passed else 'FAILED'} {check.text}" for check in checks]
    return "\n".join(lines)


def report_page(report: EvaluationReport) -> Page:
    """The report as a page with tables and plots."""
    against = "" if report.against is None else f" against {report.against.name}"
    blocks: list[Block] = []
    if report.gate is not None:
        blocks.append(Verdict(passed=report.gate.passed, text=verdict_text(report)))
    blocks += report_tables(report)
    if report.text is not None:
        blocks += _text_plots(report.text)
    if report.golden is not None:
        blocks += [_golden_plot(report.golden), _answers_table(report.golden)]
    blocks.append(
        Facts(
            title="How it was made",
            facts={
                "flyweight": report.flyweight_version,
                "machine": report.machine,
                "date": report.date,
                "took": format_seconds(report.seconds),
                **{name: str(value) for name, value in report.options.items() if value is not None},
            },
        )
    )
    return Page(
        title=f"Evaluation of {report.model.name}",
        subtitle=f"flyweight evaluate{against}, {report.date}",
        blocks=tuple(block for block in blocks if block is not None),
    )


def _model_table(report: EvaluationReport) -> Table:
    rows = []
    for role, facts in (("model", report.model), ("original", report.against)):
        if facts is None:
            continue
        formats = ", ".join(f"{count} x {name}" for name, count in facts.formats.items())
        rows.append(
            (
                role,
                facts.name,
                f"{formats} layers",
                format_bytes(facts.weight_bytes),
                f"{facts.bits_per_weight:.2f}",
                facts.compute,
            )
        )
    return Table(
        title="Models",
        columns=("", "name", "layers", "weights", "bits/weight", "compute"),
        rows=tuple(rows),
        num_labels=3,
        note=f"bits per weight of the blocks' linear layers, scales included; kernels {report.model.kernels}",
    )


def _protocol_table(text: TextResult) -> Table:
    found = text.protocol
    return Table(
        title="Protocol",
        columns=("", ""),
        rows=(
            ("cut", found.kind),
            ("text", f"{found.text}, sha256 {found.text_sha256}"),
            ("window / stride", f"{found.window} / {found.stride} tokens"),
            ("BOS rule", found.bos_rule),
            ("documents, words, bytes", f"{found.num_documents}, {found.num_words}, {found.num_bytes}"),
            ("tokens scored", f"{found.num_tokens_scored} of {found.num_tokens}"),
            ("token ids", f"sha256 {found.tokens_sha256}"),
        ),
        num_labels=2,
    )


def _perplexity_table(text: TextResult) -> Table:
    def row(name: str, found: Perplexities) -> tuple[str, ...]:
        return (name, *(show(one) for one in (found.token, found.word, found.byte, found.bits_per_byte)))

    rows = [row("model", text.perplexity)]
    if text.original is not None:
        rows.append(row("original", text.original))
    return Table(
        title="Perplexity",
        columns=("", "per token", "per word", "per byte", "bits per byte"),
        rows=tuple(rows),
        note=_note(text.perplexity.token),
    )


def _note(figure: Figure) -> str:
    return f"{figure.num_samples} {figure.sample}; {100 * figure.confidence:g} % intervals: {figure.interval}"


def _comparison_table(text: TextResult) -> Table:
    found = text.comparison
    assert found is not None
    rows = (
        ("perplexity / original's", show(found.ppl_ratio, 5)),
        ("perplexity - original's", show(found.ppl_difference)),
        ("KL mean, nats per token", show(found.kl_mean)),
        ("KL median", show(found.kl_median)),
        ("KL 99th percentile", show(found.kl_p99)),
        ("KL maximum", show(found.kl_max)),
        ("same top token", show_share(found.top1)),
        ("correct token's probability, mean change", show_share(found.delta_p_mean)),
        ("correct token's probability, RMS change", show_share(found.delta_p_rms)),
    )
    return Table(
        title="Against the original, same tokens",
        columns=("", "value [interval]"),
        rows=rows,
        note=f"{_note(found.kl_mean)}, paired; {found.kl_max.interval}; original's predictions: {found.predictions}",
    )


def _golden_table(golden: GoldenResult) -> Table:
    has_original = golden.tasks[0].original is not None
    columns: tuple[str, ...] = ("task", "prompts", "exact match")
    if has_original:
        columns += ("original", "change", "broken", "repaired", "p", "other words")

    def row(task: TaskResult) -> tuple[str, ...]:
        first = (task.task, str(task.exact_match.num_samples), show_share(task.exact_match))
        if task.original is None or task.change is None or task.p_value is None:
            return first
        return (
            *first,
            show_share(task.original),
            show_share(task.change),
            str(task.broken),
            str(task.repaired),
            f"{task.p_value:.3g}",
            str(task.changed),
        )

    note = (
        f"{golden.name}, greedy, answers stripped; {100 * golden.tasks[0].exact_match.confidence:g} % Wilson intervals"
    )
    if has_original:
        note += (
            "; broken: the original is right and the model is not; p: exact McNemar test of broken against repaired; "
            "change: paired, Bonett-Price"
        )
    return Table(title="Golden prompts", columns=columns, rows=tuple(row(task) for task in golden.tasks), note=note)


def _text_plots(text: TextResult) -> list[Block]:
    if text.comparison is None or text.kl_histogram is None:
        return []
    ordered = sorted(text.documents, key=lambda one: one.num_tokens)
    ratios = [math.exp(min(700.0, one.nll - (one.original_nll or 0.0))) for one in ordered]
    return [
        Plot(
            title="KL to the original, per token",
            svg=plot_counts(
                text.kl_histogram.edges,
                text.kl_histogram.counts,
                xlabel="KL(original || model), nats",
                ylabel="tokens",
                log_x=True,
            ),
            caption="values below 1e-9 are counted in the first bar",
        ),
        Plot(
            title="Perplexity over the original's, per document",
            svg=plot_points(
                [Series(name="documents", values=ratios, x=[one.num_tokens for one in ordered])],
                xlabel="tokens in the document",
                ylabel="ratio",
                log_x=True,
                level=1.0,
            ),
            caption="above the dotted line the model is worse than the original",
        ),
    ]


def _golden_plot(golden: GoldenResult) -> Plot:
    def series(name: str, figures: list[Figure]) -> Series:
        return Series(
            name=name,
            values=[one.value for one in figures],
            low=[one.value if one.low is None else one.low for one in figures],
            high=[one.value if one.high is None else one.high for one in figures],
        )

    shown = [series("model", [task.exact_match for task in golden.tasks])]
    originals = [task.original for task in golden.tasks if task.original is not None]
    if originals:
        shown.insert(0, series("original", originals))
    return Plot(
        title="Golden prompts answered exactly",
        svg=plot_bars([task.task for task in golden.tasks], shown, ylabel="exact match", top=1.0),
    )


def _answers_table(golden: GoldenResult) -> Table:
    """Flipped answers first, then wrong ones."""
    wrong = [one for one in golden.answers if not one.is_right]
    flipped = [one for one in wrong if one.is_original_right]
    shown = [*flipped, *(one for one in wrong if one not in flipped)][:MOST_ANSWERS]
    return Table(
        title="Answers that were not right",
        columns=("prompt", "expected", "model", "original"),
        rows=tuple((one.id, one.expected, one.answer, one.original or "") for one in shown),
        num_labels=4,
        note=f"{len(shown)} of {len(wrong)}; those that the original answers rightly come first",
    )
