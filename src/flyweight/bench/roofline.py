"""The roofline plot (Williams, Waterman and Patterson 2009): attainable speed over operations per byte, and kernels."""

from collections.abc import Sequence
from typing import Protocol

from flyweight.bench.limits import MachineLimits
from flyweight.reporting.axes import COLORS, Drawing, scale_over


class Measured(Protocol):
    """What a point of the plot is made of."""

    @property
    def name(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def operations(self) -> int: ...
    @property
    def median_seconds(self) -> float: ...


def plot_roofline(limits: MachineLimits, results: Sequence[Measured]) -> str:
    """Inline SVG: the memory's slope, a roof for each arithmetic, a point for each result.

    Args:
        results: at least one; kernels of one kind (the first word of the name) share a colour.
    """
    drawing = Drawing(label="roofline", height=420)
    intensities = [one.operations / one.nbytes for one in results]
    speeds = [one.operations / one.median_seconds / 1e9 for one in results]
    bandwidth = limits.bandwidth["memory"].median / 1e9
    roofs = {name: rate.median / 1e9 for name, rate in limits.rate.items()}
    knees = [roof / bandwidth for roof in roofs.values()]
    x = scale_over([*intensities, *knees], drawing.left, drawing.right, logarithmic=True)
    y = scale_over([*speeds, *roofs.values()], drawing.bottom, drawing.top, logarithmic=True)
    drawing.axes(y, "Gop/s", x, "operations per byte")
    highest = max(roofs.values())
    lowest = max(x.low, y.low / bandwidth)
    drawing.line(
        x.place(lowest), y.place(lowest * bandwidth), x.place(highest / bandwidth), y.place(highest), opacity=0.7
    )
    for name, roof in roofs.items():
        drawing.line(x.place(roof / bandwidth), y.place(roof), drawing.right, y.place(roof), opacity=0.7, dashed=True)
        drawing.text(drawing.right - 4, y.place(roof) - 4, f"{name} {roof:.0f} Gop/s", anchor="end")
    families = list(dict.fromkeys(" ".join(one.name.split()[:2]) for one in results))
    for one, intensity, speed in zip(results, intensities, speeds, strict=True):
        color = COLORS[families.index(" ".join(one.name.split()[:2])) % len(COLORS)]
        drawing.dot(x.place(intensity), y.place(speed), color)
    drawing.legend(families)
    return drawing.render()
