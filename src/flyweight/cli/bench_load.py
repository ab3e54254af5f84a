"""``flyweight bench load`` and ``flyweight bench load-compare``: a server under load, and two results side by side."""

import json as json_text
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flyweight.bench.load import LoadOptions, LoadReport, compare_loads, measure_load, read_report
from flyweight.bench.load.compare_report import comparison_page, comparison_table
from flyweight.bench.load.report import report_page, report_remarks, report_tables
from flyweight.errors import UsageError
from flyweight.progress import Bar
from flyweight.reporting import open_console, print_table, write_page


def load(
    url: str,
    *,
    options: Annotated[LoadOptions | None, Parameter(name="*", consume_multiple=True)] = None,
    output: Path | None = None,
    html: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Load any OpenAI-compatible server and print latencies, throughput and goodput, with intervals.

    Open loops (poisson, constant, gamma, ramp, trace) send requests when they are due and count time from then on.
    Tokens are those that the server's usage tells. Ctrl-C ends the run and prints what was measured until then; the
    exit code is then 130. It is 1 when no request was answered.

    Examples:

        flyweight bench load http://127.0.0.1:8000 --concurrency 1 4 16 --requests 64

        flyweight bench load http://127.0.0.1:8000 --load poisson --rate 2 --duration 60 --slo ttft:500 tpot:50

        flyweight bench load http://127.0.0.1:8000 --load sweep --html sweep.html --output sweep.json

        flyweight bench load http://127.0.0.1:8000 --load trace --trace day.jsonl --trace-unit ms --trace-speed 10

    Parameters
    ----------
    url
        Where the server listens, such as http://127.0.0.1:8000, with or without /v1.
    output
        Write the result, with every request, to this JSON file; load-compare reads it.
    html
        Write the report, with plots, to this HTML file.
    json
        Print the result as JSON instead of tables.
    """
    for path in (output, html):
        _check_writable(path)
    with Bar() as progress:
        report = measure_load(url, options, progress=progress)
    if output is not None:
        output.write_text(report.to_json() + "\n", encoding="utf-8")
    if html is not None:
        write_page(report_page(report), html)
    if json:
        print(report.to_json())
    else:
        console = open_console()
        for table in report_tables(report):
            print_table(table, console)
            console.print()
        for line in (*report_remarks(report), *(f"written: {path}" for path in (output, html) if path is not None)):
            console.print(line, markup=False, highlight=False)
    if report.partial:
        return 130
    return 0 if any(one.figures.completed for one in report.stages) else 1


def _check_writable(path: Path | None) -> None:
    """A run may take long: what could not be written at its end is refused before it begins."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise UsageError(f"{path} cannot be written; give the name of a file in a folder that you may write to")


def load_compare(
    *results: str,
    html: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Put results of bench load side by side: ratios to the first one, with intervals.

    Give several files of each, from runs that were taken in turn, where the machine is shared: they are compared pair
    by pair.

    Examples:

        flyweight bench load-compare int4=int4.json original=original.json --html side-by-side.html

        flyweight bench load-compare ours=a1.json,a2.json,a3.json peer=b1.json,b2.json,b3.json

    Parameters
    ----------
    results
        NAME=FILE, or NAME=FILE,FILE,... for several runs; FILE alone is named after itself.
    html
        Write the comparison, with plots, to this HTML file.
    json
        Print the ratios as JSON instead of a table.
    """
    runs = dict(_read_runs(text) for text in results)
    if len(runs) < len(results):
        raise UsageError(f"results {', '.join(results)} have a name twice; write NAME=FILE with different names")
    found = compare_loads(runs)
    if html is not None:
        write_page(comparison_page(found, runs), html)
    if json:
        print(json_text.dumps(found.to_dict(), indent=2))
        return 0
    console = open_console()
    print_table(comparison_table(found), console)
    for line in (*found.remarks, *([f"written: {html}"] if html is not None else [])):
        console.print(line, markup=False, highlight=False)
    return 0


def _read_runs(text: str) -> tuple[str, list[LoadReport]]:
    """The name and the runs of ``NAME=FILE,FILE``."""
    name, equals, files = text.partition("=")
    if not equals:
        name, files = Path(text).stem, text
    paths = [Path(one) for one in files.split(",") if one]
    if not name or not paths:
        raise UsageError(f"result {text!r} cannot be read; write NAME=FILE or NAME=FILE,FILE")
    for path in paths:
        if not path.is_file():
            raise UsageError(f"the result {path} does not exist")
    return name, [read_report(path) for path in paths]
