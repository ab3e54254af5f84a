"""Plots put marks where the numbers say, and stay well-formed for empty, infinite and single values."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyweight.reporting import Series, plot_bars, plot_histogram, plot_lines, plot_points
from flyweight.reporting.axes import Scale, scale_over

SVG = "{http://www.w3.org/2000/svg}"


def marks(svg: str, tag: str) -> list[dict[str, str]]:
    return [element.attrib for element in ET.fromstring(svg).iter(SVG + tag)]


def test_bars_are_as_high_as_their_values():
    svg = plot_bars(["json", "facts"], [Series(name="int4", values=[0.5, 1.0])], ylabel="exact match", top=1.0)
    heights = [float(bar["height"]) for bar in marks(svg, "rect")]
    assert heights[0] == pytest.approx(heights[1] / 2, abs=0.2)


def test_whiskers_span_the_interval():
    one = Series(name="a", values=[1.0], low=[0.5], high=[2.0])
    lines = marks(plot_points([one], xlabel="x", ylabel="y"), "line")
    vertical = [line for line in lines if line["x1"] == line["x2"] and line["stroke-opacity"] == "1.0"]
    longest = max(abs(float(a["y1"]) - float(a["y2"])) for a in vertical if float(a["x1"]) > 100)
    assert longest > 200


def test_histogram_counts_everything():
    values = np.array([0.0, 1e-12, 1e-3, 0.1, 1.0])
    bars = marks(plot_histogram(values, xlabel="KL", log_x=True, num_bins=9), "rect")
    tallest = max(float(bar["height"]) for bar in bars)
    assert [round(float(bar["height"]) / tallest * 2) for bar in bars] == [2, 0, 0, 0, 0, 0, 1, 0, 2]


def test_a_log_scale_has_equal_decades():
    scale = Scale(low=1.0, high=1000.0, start=0.0, end=300.0, logarithmic=True)
    assert [scale.place(v) for v in (1, 10, 100, 1000)] == pytest.approx([0, 100, 200, 300])
    assert scale.ticks() == [1, 10, 100, 1000]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=6), st.booleans())
def test_any_numbers_give_a_usable_scale(values, logarithmic):
    scale = scale_over(values, 0.0, 100.0, logarithmic=logarithmic)
    if all(abs(v) < 1e300 for v in values if math.isfinite(v)):
        assert scale.low < scale.high
        assert 1 <= len(scale.ticks()) <= 20


def test_words_are_escaped():
    svg = plot_lines([Series(name="<b>", values=[1, 2]), Series(name="&", values=[2, 1])], xlabel="<i>", ylabel="y")
    assert {"<b>", "&", "<i>"} <= {element.text for element in ET.fromstring(svg).iter(SVG + "text")}


def test_nothing_to_draw_still_draws():
    for svg in (plot_histogram([], xlabel="x"), plot_lines([], xlabel="x", ylabel="y"), plot_bars([], [], ylabel="y")):
        assert marks(svg, "line")
