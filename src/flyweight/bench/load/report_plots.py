"""The drawings of a load report: how latencies are spread, how they and throughput go over time and over load."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from flyweight.bench.load.distributions import latencies
from flyweight.bench.load.figures import in_flight, token_rate
from flyweight.bench.load.result import LoadReport, StageResult
from flyweight.reporting import Plot, Series, plot_lines

MOST_POINTS = 200
SLICES = 40
TITLES = {"ttft": "Time to first token", "tpot": "Time per output token", "e2e": "End to end"}
MOST_SERIES = 7  # as many as there are colours


def load_plots(report: LoadReport) -> list[Plot]:
    """All plots for which there are figures."""
    stages = [one for one in report.stages if one.figures.completed >= 2]
    if not stages:
        return []
    shown = [stages[int(place)] for place in np.unique(np.linspace(0, len(stages) - 1, MOST_SERIES).round())]
    plots = [
        plot
        for measure in TITLES
        if (plot := cumulative(measure, [(one.stage.label, one) for one in shown])) is not None
    ]
    for one in shown if len(shown) <= 2 else (shown[0], shown[-1]):
        plots += _over_time(one)
    opened = [one for one in stages if one.stage.is_open and one.stage.rate is not None]
    if len(opened) >= 2:
        plots.append(_against_rate(opened))
    if len(stages) >= 2:
        plots.append(curve([(report.model, stages)]))
    return plots


def cumulative(measure: str, stages: Sequence[tuple[str, StageResult]]) -> Plot | None:
    """Share of requests that took at most so long."""
    series = []
    for label, one in stages:
        values = np.sort(np.asarray(latencies(one.recording.records, measure, scheduled=one.stage.is_open))) * 1e3
        if len(values) >= 2:
            places = np.unique(np.linspace(0, len(values) - 1, min(MOST_POINTS, len(values))).round().astype(int))
            series.append(Series(name=label, x=values[places], values=(places + 1) / len(values)))
    if not series:
        return None
    since = "from when requests were due (open loops) or sent" if measure != "tpot" else "per token after the first"
    return Plot(
        title=TITLES[measure],
        svg=plot_lines(series, xlabel="milliseconds", ylabel="share of requests"),
        caption=f"share of requests that took at most so long, {since}",
    )


def curve(models: Sequence[tuple[str, Sequence[StageResult]]]) -> Plot:
    """Median and 95th percentile of TPOT against throughput, one point per stage."""
    series = []
    for name, stages in models:
        points = []
        for one in stages:
            rate = (one.figures.steady or one.figures.whole).output_tokens
            if rate is not None and "tpot" in one.figures.sent:
                points.append((rate, one.figures.sent["tpot"].p50 * 1e3, one.figures.sent["tpot"].p95 * 1e3))
        points.sort()
        if points:
            series += [
                Series(name=f"{name}, p50", x=[a for a, _, _ in points], values=[b for _, b, _ in points]),
                Series(name=f"{name}, p95", x=[a for a, _, _ in points], values=[c for _, _, c in points]),
            ]
    return Plot(
        title="Latency against throughput",
        svg=plot_lines(series, xlabel="output tokens/s", ylabel="ms per output token"),
        caption="one point per stage",
    )


def _over_time(one: StageResult) -> list[Plot]:
    """TTFT by when requests were due, output tokens per second, and requests in flight."""
    records = [record for record in one.recording.records if record.succeeded]
    seconds = one.recording.seconds
    due = np.asarray([record.scheduled for record in records])
    waits = np.asarray([record.ttft(scheduled=True) or 0.0 for record in records]) * 1e3
    edges = np.linspace(0.0, max(one.recording.offered, 1e-6), min(SLICES, max(2, len(records) // 5)) + 1)
    middles, medians, highs = [], [], []
    for low, high in pairwise(edges.tolist()):
        inside = waits[(due >= low) & (due <= high)]
        if len(inside):
            middles.append((low + high) / 2)
            medians.append(float(np.percentile(inside, 50)))
            highs.append(float(np.percentile(inside, 95)))
    plots = [
        Plot(
            title=f"{one.stage.label}: time to first token over time",
            svg=plot_lines(
                [Series(name="p50", x=middles, values=medians), Series(name="p95", x=middles, values=highs)],
                xlabel="seconds when the request was due",
                ylabel="milliseconds",
            ),
        )
    ]
    slices = min(SLICES, max(2, int(seconds * 2)))
    rates = token_rate(records, 0.0, max(seconds, 1e-6), slices)
    middle = (np.arange(slices) + 0.5) * seconds / slices
    if rates is not None:
        plots.append(
            Plot(
                title=f"{one.stage.label}: throughput over time",
                svg=plot_lines(
                    [Series(name="output", x=middle, values=rates)], xlabel="seconds", ylabel="output tokens/s"
                ),
            )
        )
    steps = in_flight(one.recording.records)
    if len(steps) >= 2:
        times, counts = np.asarray([a for a, _ in steps]), np.asarray([b for _, b in steps])
        fine = np.linspace(0.0, seconds, MOST_POINTS)
        held = np.where(fine >= times[0], counts[np.maximum(np.searchsorted(times, fine, side="right") - 1, 0)], 0)
        plots.append(
            Plot(
                title=f"{one.stage.label}: requests in flight",
                svg=plot_lines([Series(name="in flight", x=fine, values=held)], xlabel="seconds", ylabel="requests"),
            )
        )
    return plots


def _against_rate(stages: Sequence[StageResult]) -> Plot:
    rates = [one.stage.rate or 0.0 for one in stages]
    series = [
        Series(name=name, x=rates, values=[one.figures.scheduled["ttft"].figure(name) * 1e3 for one in stages])
        for name in ("p50", "p95", "p99")
    ]
    return Plot(
        title="Time to first token against the rate of requests",
        svg=plot_lines(series, xlabel="requests/s offered", ylabel="milliseconds", log_y=True),
        caption="from when requests were due; it climbs where the server no longer follows",
    )
