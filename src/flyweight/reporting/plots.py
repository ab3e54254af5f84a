"""The kinds of plots that reports use, each a function from numbers to inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flyweight.reporting.axes import COLORS, Drawing, Scale, scale_over

Numbers = Sequence[float] | np.ndarray[Any, np.dtype[Any]]
SMALLEST_DRAWN = 1e-9  # on a logarithmic axis; smaller values are drawn there


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A named row of values; ``low`` and ``high`` are the ends of the values' intervals, when they have any.

    ``x`` are the places of the values where they are not simply 0, 1, 2, ...
    """

    name: str
    values: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    x: Numbers | None = None

    def points(self) -> list[tuple[float, float]]:
        x = range(len(self.values)) if self.x is None else self.x
        return [(float(a), float(b)) for a, b in zip(x, self.values, strict=True)]

    def intervals(self) -> list[tuple[float, float, float]]:
        """(x, low, high) of every value; empty without intervals."""
        if self.low is None or self.high is None:
            return []
        ends = zip(self.points(), self.low, self.high, strict=True)
        return [(x, float(low), float(high)) for (x, _), low, high in ends]


def plot_histogram(
    values: Numbers, *, xlabel: str, ylabel: str = "count", log_x: bool = False, num_bins: int = 60
) -> str:
    """How values are spread. With ``log_x`` the bins grow geometrically and values at or below the smallest
    drawn one (1e-9) are counted in the first bin."""
    data = np.asarray(values, np.float64)
    data = data[np.isfinite(data)]
    if log_x:
        data = np.maximum(data, SMALLEST_DRAWN)
    low, high = (float(data.min()), float(data.max())) if len(data) else (0.0, 1.0)
    high = high if high > low else low + abs(low) * 0.01 + 1e-12
    edges = np.geomspace(low, high, num_bins + 1) if log_x else np.linspace(low, high, num_bins + 1)
    counts = np.histogram(np.clip(data, edges[0], edges[-1]), bins=edges)[0]
    return plot_counts(edges, counts, xlabel=xlabel, ylabel=ylabel, log_x=log_x)


def plot_counts(edges: Numbers, counts: Numbers, *, xlabel: str, ylabel: str = "count", log_x: bool = False) -> str:
    """A histogram from its counts between neighbouring ``edges`` (increasing; positive with ``log_x``)."""
    drawing = Drawing(label=f"histogram of {xlabel}")
    x = Scale(low=float(edges[0]), high=float(edges[-1]), start=drawing.left, end=drawing.right, logarithmic=log_x)
    y = scale_over([0.0, *map(float, counts)], drawing.bottom, drawing.top, from_zero=True)
    drawing.axes(y, ylabel, x, xlabel)
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        top = y.place(float(count))
        drawing.rectangle(x.place(left), top, x.place(right) - x.place(left), drawing.bottom - top, COLORS[0])
    return drawing.render()


def plot_bars(groups: Sequence[str], series: Sequence[Series], *, ylabel: str, top: float | None = None) -> str:
    """One group of bars per name in ``groups``, one bar per series, with their intervals as whiskers."""
    drawing = Drawing(label=f"{ylabel} of {', '.join(groups)}", width=max(760, 90 * len(groups)))
    heights = [0.0, *_all_values(series)]
    y = scale_over(heights, drawing.bottom, drawing.top, from_zero=True)
    if top is not None:
        y = Scale(low=y.low, high=top, start=drawing.bottom, end=drawing.top)
    drawing.axes(y, ylabel)
    room = (drawing.right - drawing.left) / max(1, len(groups))
    width = room * 0.8 / max(1, len(series))
    for index, one in enumerate(series):
        places = [drawing.left + room * (group + 0.1) + width * index for group in range(len(groups))]
        for left, value in zip(places, one.values, strict=True):
            ends = sorted((y.place(float(value)), y.place(0.0)))
            drawing.rectangle(left, ends[0], width * 0.92, ends[1] - ends[0], COLORS[index % len(COLORS)])
        for left, (_, low, high) in zip(places, one.intervals(), strict=False):
            drawing.whisker(left + width * 0.46, y.place(low), y.place(high))
    for group, name in enumerate(groups):
        drawing.text(drawing.left + room * (group + 0.5), drawing.bottom + 16, name)
    drawing.legend([one.name for one in series])
    return drawing.render()


def plot_lines(series: Sequence[Series], *, xlabel: str, ylabel: str, log_y: bool = False) -> str:
    """Values along a line, such as an error over layers or a curve of training."""
    drawing = Drawing(label=f"{ylabel} over {xlabel}")
    x, y = _scales(drawing, series, log_x=False, log_y=log_y)
    drawing.axes(y, ylabel, x, xlabel)
    for index, one in enumerate(series):
        color = COLORS[index % len(COLORS)]
        band = one.intervals()
        if band:
            upper = [(x.place(a), y.place(high)) for a, _, high in band]
            drawing.area(upper + [(x.place(a), y.place(low)) for a, low, _ in reversed(band)], color)
        drawing.path([(x.place(a), y.place(b)) for a, b in one.points() if math.isfinite(b)], color)
    drawing.legend([one.name for one in series])
    return drawing.render()


def plot_points(
    series: Sequence[Series],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    level: float | None = None,
) -> str:
    """Points with intervals, such as size against quality; ``level`` draws a horizontal line to compare with."""
    drawing = Drawing(label=f"{ylabel} against {xlabel}")
    x, y = _scales(drawing, series, log_x=log_x, log_y=log_y, more_y=[] if level is None else [level])
    drawing.axes(y, ylabel, x, xlabel)
    if level is not None:
        drawing.line(drawing.left, y.place(level), drawing.right, y.place(level), dashed=True)
    for index, one in enumerate(series):
        for a, low, high in one.intervals():
            drawing.whisker(x.place(a), y.place(low), y.place(high))
        for a, b in one.points():
            drawing.dot(x.place(a), y.place(b), COLORS[index % len(COLORS)])
    drawing.legend([one.name for one in series])
    return drawing.render()


def _all_values(series: Sequence[Series]) -> list[float]:
    values = [float(value) for one in series for value in one.values]
    return values + [end for one in series for _, low, high in one.intervals() for end in (low, high)]


def _scales(
    drawing: Drawing, series: Sequence[Series], *, log_x: bool, log_y: bool, more_y: Sequence[float] = ()
) -> tuple[Scale, Scale]:
    places = [a for one in series for a, _ in one.points()]
    x = scale_over(places, drawing.left, drawing.right, logarithmic=log_x)
    y = scale_over([*_all_values(series), *more_y], drawing.bottom, drawing.top, logarithmic=log_y)
    return x, y
