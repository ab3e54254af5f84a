"""``flyweight evaluate``: how good is this model, and how far from the original?"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flyweight.evaluation.options import EvaluateOptions
from flyweight.evaluation.render import report_page, report_tables, verdict_text
from flyweight.evaluation.run import evaluate as run_evaluation
from flyweight.progress import Bar
from flyweight.reporting import open_console, print_table, write_page


def evaluate(
    model: str,
    *,
    against: str | None = None,
    text: Path | None = None,
    golden: Path | None = None,
    options: Annotated[EvaluateOptions | None, Parameter(name="*")] = None,
    html: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Measure a model: perplexity, and with --against its divergence from the original; golden prompts; a gate.

    Every figure comes with its sample size and interval, and with the protocol that made it. The exit code is 1 when a
    gate says no, 2 when the request cannot be carried out.

    Examples:

        flyweight evaluate small/ --against original/ --text heldout.txt

        flyweight evaluate small/ --against original/ --text heldout.txt --golden golden.jsonl --gate gate.yaml

        flyweight evaluate original/ --text wiki.txt --protocol windows --window 2048 --stride 1024 --json

    Parameters
    ----------
    model
        Folder or hub id of the model to judge.
    against
        Folder or hub id of the original that the model was made from.
    text
        Evaluation text: plain, or JSONL with {"text": ...} lines; documents are parted by <|endoftext|> lines.
    golden
        Golden prompts: JSONL with id, task, messages, expected and max_tokens; or a folder of such files.
    html
        Write the report, with plots, to this HTML file.
    json
        Print the report as JSON instead of tables.
    """
    with Bar() as progress:
        report = run_evaluation(model, against=against, text=text, golden=golden, options=options, progress=progress)
    if html is not None:
        write_page(report_page(report), html)
    if json:
        print(report.to_json())
        return 0 if report.passed else 1
    console = open_console()
    for table in report_tables(report):
        print_table(table, console)
        console.print()
    if report.gate is not None:
        console.print(f"gate {'passed' if report.passed else 'FAILED'}", style="bold")
        console.print(verdict_text(report), markup=False, highlight=False)
    if html is not None:
        console.print(f"report: {html}", markup=False, highlight=False)
    return 0 if report.passed else 1
