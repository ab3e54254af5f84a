"""``flyweight compress``: arguments in, a compressed checkpoint and its report out."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from flyweight.compression import CompressOptions
from flyweight.compression import compress as compress_checkpoint
from flyweight.progress import Bar
from flyweight.reporting import print_table


def compress(
    model: str,
    out: Path,
    *,
    recipe: str = "gptq-int4",
    json: bool = False,
    options: Annotated[CompressOptions | None, Parameter(name="*")] = None,
) -> int:
    """Make a checkpoint smaller: integer weights in the compressed-tensors layout, ready to evaluate and to serve.

    The work grows in OUT.partial and is renamed when it is whole. Interrupted (Ctrl-C, kill, power), the same command
    goes on from the last finished block.

    Examples:
        flyweight compress ./llama ./llama-int8 --recipe int8
        flyweight compress ./llama ./llama-int4 --recipe gptq-int4 --calibration text.txt
        flyweight compress org/model ./out --recipe my.yaml --calibration chats.jsonl --memory 2GB

    Parameters
    ----------
    model
        A checkpoint's folder, or a hub id.
    out
        The folder to write; it must not exist.
    recipe
        A preset (int8, int4, w8a8, gptq-int8, gptq-int4, gptq-int3) or the path of a YAML file.
    json
        Print the report as JSON on standard output.
    """
    options = CompressOptions() if options is None else options
    with Bar() as bar:
        try:
            report = compress_checkpoint(model, out, recipe, options, progress=bar)
        except KeyboardInterrupt:
            Console(stderr=True).print("\ninterrupted: the same command goes on from the last finished block")
            return 130
    if json:
        print(report.to_json())
    else:
        print_table(report.table)
        for warning in report.warnings:
            Console(stderr=True).print(f"warning: {warning}", markup=False)
        print(f"{out}: {report.bits_per_weight:.2f} bits per weight, report in {out / 'report.html'}")
    return 0
