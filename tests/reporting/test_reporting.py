"""Tables, pages and drawings: literal text, one self-contained file, right positions of what is drawn."""

import html.parser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from flyweight.errors import UsageError
from flyweight.reporting import (
    Facts,
    Page,
    Plot,
    Series,
    Table,
    Text,
    Verdict,
    format_bytes,
    format_interval,
    format_seconds,
    parse_bytes,
    plot_bars,
    plot_counts,
    plot_histogram,
    plot_lines,
    plot_points,
    print_table,
    render_page,
    write_page,
)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_499, "999 kB"), (999_600, "1.00 MB"), (12_345_678, "12.3 MB")],
)
def test_bytes_are_readable(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("2GB", 2 * 10**9), ("2GiB", 2 * 2**30), ("1.5 mb", 1_500_000), ("700", 700), ("3k", 3000), ("12B", 12)],
)
def test_sizes_are_read(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "two", "2 parsecs", "-1GB", "GB"])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="is not understood; write a number with a unit, such as 800MB"):
        parse_bytes(text)


def test_seconds_and_intervals() -> None:
    assert [format_seconds(s) for s in (0.042, 7.25, 754, 7384)] == ["42 ms", "7.2 s", "12 min 34 s", "2 h 3 min"]
    assert format_interval(12.3456, 12.1, 12.6, 4) == "12.35 [12.10, 12.60]"
    assert format_interval(0.00123456, 0.001, 0.002) == "0.00123 [0.00100, 0.00200]"
    assert format_interval(0.0, 0.0, 0.01) == "0.000 [0.000, 0.010]"
    assert format_interval(0.5, None, None) == "0.500"
    assert format_interval(0.0000475, 0.0000399, 0.0000569) == "4.75e-05 [3.99e-05, 5.69e-05]"


def test_a_table_prints_cells_literally_and_whole() -> None:
    console = Console(width=40, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_table(Table(title="T", columns=("name", "n"), rows=(("[red]x" + "y" * 60, "1"),), note="[b]note"), console)
    text = console.export_text()
    assert "[red]x" in text
    assert text.count("y") == 60
    assert "[b]note" in text
    console.file.close()


def test_a_row_of_wrong_length_is_our_bug() -> None:
    with pytest.raises(ValueError, match="has 1 cells for 2 columns"):
        Table(title="T", columns=("a", "b"), rows=(("x",),))


SVG = "http://www.w3.org/2000/svg"


class Reader(html.parser.HTMLParser):
    """Collects tags and the addresses they would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            v or "" for k, v in attributes if k in ("src", "href", "xlink:href") and not (v or "").startswith("#")
        ]


def test_a_page_is_one_file_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    page = Page(
        title=evil,
        subtitle="sub",
        blocks=(
            Text(text=evil, heading=evil),
            Facts(title="f", facts={evil: evil}),
            Verdict(passed=False, text="max_kl: 0.2 > 0.1"),
            Table(title="t", columns=("a", evil), rows=((evil, "2"),), note=evil),
            Plot(title="p", svg=plot_histogram([1.0, 2.0, 2.0], xlabel=evil), caption=evil),
        ),
    )
    path = write_page(page, tmp_path / "deep" / "report.html")
    text = path.read_text()
    reader = Reader()
    reader.feed(text)
    assert "script" not in reader.tags
    assert reader.fetched == []
    assert {"table", "dl", "svg", "figure"} <= set(reader.tags)
    assert "FAILED" in text
    assert "PASSED" not in text
    assert text == render_page(page), "the same page must give the same bytes"
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_drawings_follow_the_page_colour_and_escape_names() -> None:
    series = [Series(name="<b>s", values=[0.5, 1.0], low=[0.4, 0.9], high=[0.6, 1.0]), Series(name="t", values=[1, 2])]
    drawings = [
        plot_bars(["a", "<i>b"], series, ylabel="share", top=1.0),
        plot_points(series, xlabel="x", ylabel="y", level=1.0),
        plot_lines(series, xlabel="x", ylabel="loss", log_y=True),
        plot_counts([1.0, 10.0, 100.0], [3, 4], xlabel="<u>", log_x=True),
    ]
    for drawing in drawings:
        assert ET.fromstring(drawing).tag.endswith("svg")
        assert "currentColor" in drawing
        assert "<b>" not in drawing


def marks(drawing: str, kind: str, attribute: str) -> list[float]:
    return [float(one.attrib[attribute]) for one in ET.fromstring(drawing).iter(f"{{{SVG}}}{kind}")]


def test_a_histogram_counts_every_value_once() -> None:
    drawing = plot_histogram([1e-12, 0.0, 1e-3, 1e-3, 0.5], xlabel="KL", log_x=True, num_bins=4)
    heights = marks(drawing, "rect", "height")
    unit = min(height for height in heights if height > 0)
    assert [round(height / unit) for height in heights] == [2, 0, 2, 1]


def test_marks_stand_where_their_values_are() -> None:
    drawing = plot_points(
        [Series(name="s", values=[0.0, 1.0, 3.0], x=[1.0, 10.0, 100.0])], xlabel="x", ylabel="y", log_x=True
    )
    x, y = marks(drawing, "circle", "cx"), marks(drawing, "circle", "cy")
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert y[1] - y[2] == pytest.approx(2 * (y[0] - y[1]), abs=0.2)
    bars = plot_bars(["a", "b"], [Series(name="s", values=[0.25, 1.0])], ylabel="share", top=1.0)
    low, high = marks(bars, "rect", "height")
    assert high == pytest.approx(4 * low, abs=0.5)
