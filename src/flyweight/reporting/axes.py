"""A pair of axes drawn as inline SVG: scales, ticks, labels, a legend, and marks placed by their values.

Ink is ``currentColor``, so a drawing reads in light and in dark. A drawing library would take more room than the
rest of the installation's plots are worth: see the dependencies in pyproject.toml.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

COLORS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#999999",
)  # Paul Tol's "bright", for all eyes

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 64, 12, 24, 46
LETTER_WIDTH = 6.4  # pixels, on average, at the font size of render()


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Maps values to pixels, linearly or by logarithm. ``low`` < ``high``, both positive when logarithmic."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Pixel of a value, clamped to the axis."""
        low, high = self._inner(self.low), self._inner(self.high)
        share = (self._inner(min(max(value, self.low), self.high)) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the range: powers of ten, or steps of 1, 2 or 5."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            stride = max(1, (last - first) // 6)
            powers = [10.0**exponent for exponent in range(first, last + 1, stride)]
            return powers if len(powers) > 1 else [self.low, self.high]
        raw = (self.high - self.low) / 5
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * 0.999)
        first_step = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first_step, math.floor(self.high / step + 1e-9) + 1)]

    def _inner(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def scale_over(
    values: Sequence[float], start: float, end: float, *, logarithmic: bool = False, from_zero: bool = False
) -> Scale:
    """A scale that shows all finite ``values`` with a little room; one value alone still gets a range."""
    finite = [v for v in values if math.isfinite(v) and (not logarithmic or v > 0)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if logarithmic:
        low, high = (low, high) if finite else (1.0, 10.0)
        return Scale(low=low / 1.2, high=high * 1.2, start=start, end=end, logarithmic=True)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * 0.05 or max(abs(high), 1.0) * 0.05
    return Scale(low=low if from_zero and low == 0.0 else low - room, high=high + room, start=start, end=end)


@dataclass(kw_only=True, slots=True)
class Drawing:
    """Marks on axes; ``render`` gives the ``<svg>`` element. Coordinates given to the marks are pixels."""

    label: str
    width: int = 760
    height: int = 320
    marks: list[str] = field(default_factory=list)

    @property
    def left(self) -> int:
        return MARGIN_LEFT

    @property
    def right(self) -> int:
        return self.width - MARGIN_RIGHT

    @property
    def top(self) -> int:
        return MARGIN_TOP

    @property
    def bottom(self) -> int:
        return self.height - MARGIN_BOTTOM

    def rectangle(self, x: float, y: float, width: float, height: float, color: str) -> None:
        self.marks.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>')

    def path(self, points: Sequence[tuple[float, float]], color: str) -> None:
        inner = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.marks.append(f'<polyline points="{inner}" fill="none" stroke="{color}" stroke-width="1.6"/>')

    def area(self, points: Sequence[tuple[float, float]], color: str) -> None:
        inner = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.marks.append(f'<polygon points="{inner}" fill="{color}" fill-opacity="0.2"/>')

    def dot(self, x: float, y: float, color: str) -> None:
        self.marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, *, opacity: float = 1.0, dashed: bool = False) -> None:
        dashes = ' stroke-dasharray="3 3"' if dashed else ""
        self.marks.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
            f'stroke-opacity="{opacity}"{dashes}/>'
        )

    def whisker(self, x: float, low: float, high: float) -> None:
        """An interval: a vertical line with caps."""
        self.line(x, low, x, high)
        self.line(x - 3, low, x + 3, low)
        self.line(x - 3, high, x + 3, high)

    def text(
        self, x: float, y: float, words: str, *, anchor: Literal["start", "middle", "end"] = "middle", turn: int = 0
    ) -> None:
        turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
        self.marks.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(words)}</text>')

    def axes(self, y: Scale, ylabel: str, x: Scale | None = None, xlabel: str = "") -> None:
        """Frame, ticks and labels; without ``x`` the caller labels the horizontal axis itself."""
        for tick in y.ticks():
            self.line(self.left, y.place(tick), self.right, y.place(tick), opacity=0.12)
            self.text(self.left - 6, y.place(tick) + 3.5, f"{tick:.4g}", anchor="end")
        for tick in x.ticks() if x is not None else []:
            assert x is not None
            self.line(x.place(tick), self.bottom, x.place(tick), self.bottom + 4)
            self.text(x.place(tick), self.bottom + 16, f"{tick:.4g}")
        self.line(self.left, self.top, self.left, self.bottom)
        self.line(self.left, self.bottom, self.right, self.bottom)
        self.text((self.left + self.right) / 2, self.height - 8, xlabel)
        self.text(14, (self.top + self.bottom) / 2, ylabel, turn=-90)

    def legend(self, names: Sequence[str]) -> None:
        """Names beside their colours in one row above the axes; none for a single series."""
        x = float(self.left) + 8
        for index, name in enumerate(names if len(names) > 1 else []):
            self.rectangle(x, 6, 9, 9, COLORS[index % len(COLORS)])
            self.text(x + 13, 14, name, anchor="start")
            x += 28 + LETTER_WIDTH * len(name)

    def render(self) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(self.label)}" '
            f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" fill="currentColor" '
            f'font-family="system-ui, sans-serif" font-size="11">{"".join(self.marks)}</svg>'
        )
