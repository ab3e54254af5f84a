"""What results look like: tables on the terminal, and one self-contained HTML file with tables and plots.

It knows numbers and words only: not models, compression or evaluation, which fill it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyweight.reporting.page import Block, Facts, Page, Plot, Text, Verdict, render_page, write_page
    from flyweight.reporting.plots import Series, plot_bars, plot_counts, plot_histogram, plot_lines, plot_points
    from flyweight.reporting.table import Table, open_console, print_table
    from flyweight.reporting.units import format_bytes, format_interval, format_seconds, parse_bytes

# Where each name lives; it is imported when it is first used (PEP 562): who loads a model writes sizes, and neither
# pages nor tables, whose libraries take a tenth of a second to import.
_HOMES = {
    "page": ("Block", "Facts", "Page", "Plot", "Text", "Verdict", "render_page", "write_page"),
    "plots": ("Series", "plot_bars", "plot_counts", "plot_histogram", "plot_lines", "plot_points"),
    "table": ("Table", "open_console", "print_table"),
    "units": ("format_bytes", "format_interval", "format_seconds", "parse_bytes"),
}

__all__ = [
    "Block",
    "Facts",
    "Page",
    "Plot",
    "Series",
    "Table",
    "Text",
    "Verdict",
    "format_bytes",
    "format_interval",
    "format_seconds",
    "open_console",
    "parse_bytes",
    "plot_bars",
    "plot_counts",
    "plot_histogram",
    "plot_lines",
    "plot_points",
    "print_table",
    "render_page",
    "write_page",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
