"""``flyweight bench``: how fast, beside the machine's limits and beside other engines."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flyweight.bench.compare import compare as run_comparison
from flyweight.bench.compare_options import CompareOptions
from flyweight.bench.compare_report import report_page, report_tables
from flyweight.progress import Bar
from flyweight.reporting import open_console, print_table, write_page

bench = App(
    name="bench",
    help="Measure speed: each kernel against this machine's limits, and this engine against its peers.",
    help_epilogue="""Examples:

    flyweight bench compare small/ --peer llama.cpp=build/bin/llama-bench:model-q4_0.gguf
""",
)


@bench.command
def compare(
    model: Path,
    *,
    peer: tuple[str, ...] = (),
    options: Annotated[CompareOptions | None, Parameter(name="*")] = None,
    html: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Measure a model here and its like in other engines, in turn, and print the ratios with their intervals.

    Each engine runs in processes of its own; while one is measured the others are stopped. An engine that fails at a
    task is reported and left out of it; the exit code is then 1.

    Examples:

        flyweight bench compare small/ --peer llama.cpp=build/bin/llama-bench:model-q4_0.gguf --html compare.html

        flyweight bench compare small/ --peer openvino=openvino/bin/python:exported/ --tasks streams-8 --rounds 7

        flyweight bench compare small/ --peer vllm=vllm/bin/python:small/ --json

    Parameters
    ----------
    model
        Folder of our checkpoint.
    peer
        NAME=PROGRAM:MODEL; names are llama.cpp (llama-bench, with llama-server beside it), openvino and vllm (the
        Python of their environment) and flyweight (another environment or model of ours).
    html
        Write the report, with plots and every command line, to this HTML file.
    json
        Print the report as JSON instead of tables.
    """
    with Bar() as progress:
        report = run_comparison(model, peer, options, progress=progress)
    failed = any(result.failures for result in report.results)
    if html is not None:
        write_page(report_page(report), html)
    if json:
        print(report.to_json())
        return int(failed)
    console = open_console()
    for table in report_tables(report):
        print_table(table, console)
        console.print()
    if html is not None:
        console.print(f"report: {html}", markup=False, highlight=False)
    return int(failed)
