"""What results look like: tables on the terminal, and one self-contained HTML file with tables and plots.

It knows numbers and words only: not models, compression or evaluation, which fill it.
"""

from flyweight.reporting.page import Block, Facts, Page, Plot, Text, Verdict, render_page, write_page
from flyweight.reporting.plots import Series, plot_bars, plot_counts, plot_histogram, plot_lines, plot_points
from flyweight.reporting.table import Table, open_console, print_table
from flyweight.reporting.units import format_bytes, format_interval, format_seconds, parse_bytes

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
