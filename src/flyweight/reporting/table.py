"""One table, shown on a terminal or in a page."""

import os
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

PIPED_WIDTH = 160
WIDEST_UNFOLDED = 15  # names in the first column are folded only beyond this, however narrow the terminal


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of ready-made text under column names.

    The first ``num_labels`` columns are words (left-aligned), the others numbers (right-aligned). A cell may hold
    several lines. ``note`` stands below the table: units, sample size, how the intervals were made.

    Raises:
        ValueError: when a row has not as many cells as there are columns (a mistake of ours).
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_labels: int = 1
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: row {row} has {len(row)} cells for {len(self.columns)} columns"
                )


def open_console() -> Console:
    """Standard output: as wide as the terminal, and wide enough for our tables where it is a file or a pipe."""
    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=PIPED_WIDTH)


def print_table(table: Table, console: Console | None = None) -> None:
    """Print ``table``; the cells are taken literally (no rich markup). Wide tables are folded, never cut."""
    console = console if console is not None else open_console()
    drawn = RichTable(
        title=Text(table.title, style="bold"),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        show_header=any(table.columns),
    )
    if table.note:
        drawn.caption = Text(table.note, style="dim")
    for position, name in enumerate(table.columns):
        longest = max((len(row[position]) for row in table.rows), default=0)
        drawn.add_column(
            Text(name),
            justify="left" if position < table.num_labels else "right",
            overflow="fold",
            vertical="top",
            min_width=min(longest, WIDEST_UNFOLDED) if position == 0 else None,
        )
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(drawn)
