"""Drawings as inline SVG. Ink takes the colour of the page's text, so that they read in light and in dark.

matplotlib is loaded when the first drawing is made: it takes about a second, and most commands draw nothing.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = Sequence[float] | np.ndarray[Any, np.dtype[Any]]

INK = "#010203"  # stands for the page's text colour while drawing; replaced by currentColor
COLORS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#999999",
)  # Paul Tol's "bright", for all eyes


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


def plot_histogram(
    values: Numbers, *, xlabel: str, ylabel: str = "count", log_x: bool = False, num_bins: int = 60
) -> str:
    """How values are spread. With ``log_x`` the bins grow geometrically and values at or below the smallest
    drawn one (1e-9) are counted in the first bin."""
    data = np.asarray(values, np.float64)

    def draw(axes: "Axes") -> None:
        if log_x:
            floored = np.maximum(data, 1e-9)
            low, high = float(floored.min()), float(floored.max())
            axes.hist(floored, bins=list(np.geomspace(low, max(high, low * 1.01), num_bins + 1)), color=COLORS[0])
            axes.set_xscale("log")
        else:
            axes.hist(data, bins=num_bins, color=COLORS[0])
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)

    return _draw(draw, f"histogram {xlabel}")


def plot_bars(groups: Sequence[str], series: Sequence[Series], *, ylabel: str, top: float | None = None) -> str:
    """One group of bars per name in ``groups``, one bar per series, with their intervals as whiskers."""

    def draw(axes: "Axes") -> None:
        width = 0.8 / max(1, len(series))
        for index, one in enumerate(series):
            places = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * width
            axes.bar(places, np.asarray(one.values), width, label=one.name, color=COLORS[index % len(COLORS)])
            if one.low is not None and one.high is not None:
                _whiskers(axes, places, one)
        axes.set_xticks(np.arange(len(groups)), groups, rotation=20 if max(map(len, groups), default=0) > 12 else 0)
        axes.set_ylabel(ylabel)
        axes.set_ylim(bottom=0, top=top)
        _legend(axes, len(series))

    return _draw(draw, f"bars {ylabel} {' '.join(groups)}", width=max(7.5, 1.1 * len(groups)))


def plot_lines(series: Sequence[Series], *, xlabel: str, ylabel: str, log_y: bool = False) -> str:
    """Values along a line, such as an error over layers or a curve of training."""

    def draw(axes: "Axes") -> None:
        for index, one in enumerate(series):
            x = np.arange(len(one.values)) if one.x is None else np.asarray(one.x)
            axes.plot(
                x, np.asarray(one.values), label=one.name, color=COLORS[index % len(COLORS)], marker=".", linewidth=1.2
            )
            if one.low is not None and one.high is not None:
                axes.fill_between(
                    x, np.asarray(one.low), np.asarray(one.high), color=COLORS[index % len(COLORS)], alpha=0.2
                )
        if log_y:
            axes.set_yscale("log")
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        _legend(axes, len(series))

    return _draw(draw, f"lines {xlabel} {ylabel}")


def plot_points(
    series: Sequence[Series], *, xlabel: str, ylabel: str, log_x: bool = False, level: float | None = None
) -> str:
    """Points with intervals, such as size against quality; ``level`` draws a horizontal line to compare with."""

    def draw(axes: "Axes") -> None:
        for index, one in enumerate(series):
            x = np.arange(len(one.values)) if one.x is None else np.asarray(one.x)
            axes.plot(x, np.asarray(one.values), "o", label=one.name, color=COLORS[index % len(COLORS)], markersize=4)
            if one.low is not None and one.high is not None:
                _whiskers(axes, x, one)
        if level is not None:
            axes.axhline(level, color=INK, linewidth=0.8, linestyle=":")
        if log_x:
            axes.set_xscale("log")
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        _legend(axes, len(series))

    return _draw(draw, f"points {xlabel} {ylabel}")


def _whiskers(axes: "Axes", x: Any, series: Series) -> None:
    values = np.asarray(series.values, np.float64)
    below = np.maximum(0, values - np.asarray(series.low, np.float64))
    above = np.maximum(0, np.asarray(series.high, np.float64) - values)
    axes.errorbar(x, values, yerr=[below, above], fmt="none", ecolor=INK, elinewidth=0.9, capsize=2.5)


def _legend(axes: "Axes", num_series: int) -> None:
    if num_series > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=8)


def _draw(draw: "Callable[[Axes], None]", salt: str, *, width: float = 7.5, height: float = 3.2) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # The salt keeps the ids of several drawings in one page apart and equal from run to run; text stays text.
    with rc_context({"svg.hashsalt": salt, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(width, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        draw(axes)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("bottom", "left"):
            axes.spines[side].set_color(INK)
        axes.tick_params(colors=INK, which="both")
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.grid(axis="y", color=INK, alpha=0.12)
        axes.set_axisbelow(True)
        buffer = io.BytesIO()
        canvas.print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    drawing = buffer.getvalue().decode()
    drawing = drawing[drawing.index("<svg") :].replace(INK, "currentColor")
    # Text without a colour of its own (tick offsets) would be black on a dark page.
    drawing = drawing.replace("<svg ", '<svg role="img" fill="currentColor" ', 1)
    return re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
