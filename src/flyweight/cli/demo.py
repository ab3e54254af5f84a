"""``flyweight demo``: compress, prove, answer, on the model that comes with the package."""

import json as json_format
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flyweight.progress import Bar
from flyweight.reporting import format_seconds, open_console, print_table, write_page
from flyweight.shipping.demo import run_demo
from flyweight.shipping.demo_report import answers_table, demo_page, demo_table


def demo(*, out: Path = Path("flyweight-demo"), json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Compress the packaged model to INT8 and INT4, by rounding and by GPTQ, and measure each against the original.

    Prints one table and one answer of each model, and writes the HTML report. Takes under a minute on two cores.

    Examples:

        flyweight demo

        flyweight demo --out /tmp/demo

        flyweight demo --json

    Parameters
    ----------
    out
        Folder for the compressed models and reports; one that an earlier demo made is replaced.
    json
        Print everything measured as JSON instead of the table.
    """
    with Bar() as progress:
        found = run_demo(out, progress=progress)
    page = write_page(demo_page(found), out / "report.html")
    if json:
        print(json_format.dumps(found.to_dict(), indent=2, allow_nan=False))
        return 0
    console = open_console()
    print_table(demo_table(found), console)
    console.print()
    print_table(answers_table(found), console)
    console.print(f"\nreport: {page} (took {format_seconds(found.seconds)})", markup=False, highlight=False)
    return 0
