"""``flyweight bench``: how fast, beside the machine's limits and beside other engines."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flyweight.bench.compare import compare as run_comparison
from flyweight.bench.compare_options import CompareOptions
from flyweight.bench.compare_report import report_page as comparison_page
from flyweight.bench.compare_report import report_tables as comparison_tables
from flyweight.bench.kernel_options import KernelOptions
from flyweight.bench.kernel_report import report_page as kernel_page
from flyweight.bench.kernel_report import report_tables as kernel_tables
from flyweight.bench.kernels import USUAL_SHAPE, measure_kernels
from flyweight.cli.bench_load import load, load_compare
from flyweight.progress import Bar
from flyweight.reporting import Page, Table, open_console, print_table, write_page

bench = App(
    name="bench",
    help="Measure speed: kernels against this machine's limits, this engine against its peers, any server under load.",
    help_epilogue="""Examples:

    flyweight bench kernels

    flyweight bench compare small/ --peer llama.cpp=build/bin/llama-bench:model-q4_0.gguf

    flyweight bench load http://127.0.0.1:8000 --load poisson --rate 2 --duration 60
""",
)
bench.command(load)
bench.command(load_compare)


@bench.command
def kernels(
    *,
    model: str = USUAL_SHAPE,
    options: Annotated[KernelOptions | None, Parameter(name="*")] = None,
    html: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Time every kernel at a model's sizes and print its share of this machine's limits, measured in the same run.

    Examples:

        flyweight bench kernels

        flyweight bench kernels --full --isa all --html kernels.html

        flyweight bench kernels --model small/config.json --filter "int4 gate_up" --json

    Parameters
    ----------
    model
        qwen2.5-0.5b, llama-3.2-1b, llama-3.2-3b, llama-3.1-8b, or a config.json, or a folder with one.
    html
        Write the report, with rooflines, to this HTML file.
    json
        Print the report as JSON instead of tables.
    """
    with Bar() as progress:
        report = measure_kernels(model, options, progress=progress)
    _show(report.to_json() if json else kernel_tables(report), kernel_page(report), html)
    return 0


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
    _show(report.to_json() if json else comparison_tables(report), comparison_page(report), html)
    return int(any(result.failures for result in report.results))


def _show(found: str | tuple[Table, ...], page: Page, html: Path | None) -> None:
    """Print JSON or tables, and write the page where one is wanted."""
    if html is not None:
        write_page(page, html)
    if isinstance(found, str):
        print(found)
        return
    console = open_console()
    for table in found:
        print_table(table, console)
        console.print()
    if html is not None:
        console.print(f"report: {html}", markup=False, highlight=False)
