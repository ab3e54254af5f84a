"""Draws the training log as SVG: loss, and exact match per task on the dev split, over the steps.

Run from the repository root: ``python -m examples.demo_model.plot_curve --log build/demo_model/log.jsonl``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flyweight.reporting.plots import Series, plot_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, default=Path("examples/demo_model/log.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("examples/demo_model"))
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.log.read_text().splitlines()]
    loss = Series(name="loss", x=[line["step"] for line in lines], values=[line["loss"] for line in lines])
    svg = plot_lines([loss], xlabel="step", ylabel="weighted training loss (nats)", log_y=True)
    (arguments.out / "loss.svg").write_text(svg + "\n")
    evaluated = [line for line in lines if "exact_match" in line]
    steps = [line["step"] for line in evaluated]
    series = [
        Series(name=task, x=steps, values=[line["exact_match"][task] for line in evaluated])
        for task in evaluated[-1]["exact_match"]
    ]
    svg = plot_lines(series, xlabel="step", ylabel="exact match on dev prompts")
    (arguments.out / "exact_match.svg").write_text(svg + "\n")


if __name__ == "__main__":
    main()
