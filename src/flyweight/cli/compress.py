"""``flyweight compress``: arguments in, a compressed checkpoint and its report out."""

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from flyweight.compression import CompressionPlan, CompressOptions, plan_compression
from flyweight.compression import compress as compress_checkpoint
from flyweight.progress import Bar
from flyweight.reporting import format_bytes, format_seconds, print_table


def compress(
    model: str,
    out: Path,
    *,
    recipe: str = "gptq-int4",
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
    options: Annotated[CompressOptions | None, Parameter(name="*")] = None,
) -> int:
    """Make a checkpoint smaller: integer weights in the compressed-tensors layout, ready to evaluate and to serve.

    The work grows in OUT.partial and is renamed when it is whole. Interrupted (Ctrl-C, kill, power), the same command
    goes on from the last finished block.

    Examples:

        flyweight compress model/ small/ --recipe int8

        flyweight compress model/ small/ --recipe gptq-int4 --calibration text.txt

        flyweight compress org/model small/ --recipe my.yaml --calibration chats.jsonl --memory 2GB

    Parameters
    ----------
    model
        A checkpoint's folder, or a hub id.
    out
        The folder to write; it must not exist.
    recipe
        The name of a preset (docs/recipes.md lists them) or the path of a YAML file.
    dry_run
        Check everything, run one block to see what memory and time the job would take, and write nothing.
    json
        Print the report as JSON on standard output.
    """
    options = CompressOptions() if options is None else options
    if dry_run:
        _print_plan(plan_compression(model, out, recipe, options), as_json=json)
        return 0
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


def _print_plan(plan: CompressionPlan, *, as_json: bool) -> None:
    if as_json:
        print(json_module.dumps(asdict(plan), indent=2))
        return
    layers = ", ".join(f"{count} {name}" for name, count in plan.layers.items())
    print(f"layers       {layers}")
    print(f"calibration  {plan.calibration}")
    print(
        f"memory       {format_bytes(plan.predicted_memory_bytes)} predicted; one block took "
        f"{format_bytes(plan.measured_memory_bytes)}; largest: {plan.largest_item}"
    )
    if plan.on_disk:
        print(f"on disk      activations kept on disk to keep the ceiling: {', '.join(plan.on_disk)}")
    print(f"disk         {format_bytes(plan.disk_bytes)}")
    print(f"time         about {format_seconds(plan.seconds)}")
    for warning in plan.warnings:
        print(f"warning      {warning}")
