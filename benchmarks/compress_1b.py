"""GPTQ INT4 of a checkpoint of a real shape: Flyweight under a memory ceiling beside llm-compressor, in one run.

    python benchmarks/make_random_checkpoint.py llama-3.2-1b MODEL --tokenizer DIR
    python benchmarks/compress_1b.py --model MODEL --work DIR --peer-python PYTHON

Both get the same checkpoint, the same matrix of calibration tokens, the same bits, group size and damping, the same
number of threads; wall time and peak memory are taken from outside the process. Rounds alternate between the two.
Quality is not the subject: see ``gptq_quality.py``.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np
from measured_run import Measurement, machine_line, run_measured
from numpy.typing import NDArray
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent


def calibration_matrix(model: Path, text: Path | None, samples: int, length: int, seed: int) -> NDArray[np.int32]:
    """Token ids [samples, length]: of the text, or seeded random ids where no text is given."""
    if text is None:
        vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
        return np.random.default_rng(seed).integers(vocabulary, size=(samples, length), dtype=np.int32)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    ids = tokenizer.encode(text.read_text()[: samples * length * 16]).ids
    if len(ids) < samples * length:
        raise SystemExit(f"--text has {len(ids)} tokens; {samples} x {length} are needed")
    return np.array(ids[: samples * length], dtype=np.int32).reshape(samples, length)


def recipe_text(arguments: argparse.Namespace) -> str:
    """The recipe that says to us what the peer's arguments say to it."""
    return (
        "rules:\n"
        "  - match: 'model.layers.*'\n"
        "    method: gptq\n"
        f"    format: {{bits: {arguments.bits}, group_size: {arguments.group_size}}}\n"
        f"    options: {{damping: {arguments.damp}}}\n"
    )


def commands(arguments: argparse.Namespace, tokens: Path) -> dict[str, list[str]]:
    """The command lines of both sides, without their output folders."""
    recipe = arguments.work / "recipe.yaml"
    recipe.write_text(recipe_text(arguments))
    ours = [arguments.flyweight_python, "-m", "flyweight", "compress", str(arguments.model), "OUT"]
    ours += ["--recipe", str(recipe), "--calibration", str(tokens), "--memory", arguments.memory]
    ours += ["--sequences", str(arguments.samples), "--sequence-length", str(arguments.length)]
    result = {"flyweight": ours}
    if arguments.peer_python is not None:
        peer = [arguments.peer_python, str(HERE / "peers" / "llm_compressor_gptq.py"), "--model", str(arguments.model)]
        peer += ["--out", "OUT", "--bits", str(arguments.bits), "--group-size", str(arguments.group_size)]
        peer += ["--damp", str(arguments.damp), "--dtype", arguments.peer_dtype]
        result["llm-compressor"] = [*peer, "--calibration-tokens", str(tokens)]
    return result


def run_round(name: str, command: list[str], arguments: argparse.Namespace, round_number: int) -> Measurement:
    """One run of one side into a folder of its own, which is removed unless it is to be kept."""
    out = arguments.work / f"{name}-{round_number}"
    shutil.rmtree(out, ignore_errors=True)
    log = arguments.work / f"{name}-{round_number}.log"
    log.unlink(missing_ok=True)
    environment = dict(os.environ) | {"OMP_NUM_THREADS": str(arguments.threads)}
    measured = run_measured([str(out) if part == "OUT" else part for part in command], log=log, environment=environment)
    if measured.exit_status != 0:
        raise SystemExit(f"{name} ended with {measured.exit_status}:\n{log.read_text()[-3000:]}")
    if not arguments.keep:
        shutil.rmtree(out)
    print(f"{name}: {measured.seconds:.1f} s, peak {measured.peak_rss_bytes / 1e9:.3f} GB", file=sys.stderr, flush=True)
    return measured


def table(measured: dict[str, list[Measurement]]) -> str:
    """Medians and ranges as markdown, and the ratios of the medians."""
    lines = ["| | seconds, median [range] | peak RSS, GB, median [range] |", "|---|---|---|"]
    medians: dict[str, tuple[float, float]] = {}
    for name, runs in measured.items():
        seconds = [run.seconds for run in runs]
        peaks = [run.peak_rss_bytes / 1e9 for run in runs]
        medians[name] = statistics.median(seconds), statistics.median(peaks)
        lines.append(
            f"| {name} | {medians[name][0]:.1f} [{min(seconds):.1f}-{max(seconds):.1f}] "
            f"| {medians[name][1]:.3f} [{min(peaks):.3f}-{max(peaks):.3f}] |"
        )
    if "llm-compressor" in medians:
        ours, peer = medians["flyweight"], medians["llm-compressor"]
        lines.append(f"| ratio | {ours[0] / peer[0]:.3f} | {ours[1] / peer[1]:.3f} |")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for outputs and logs")
    parser.add_argument("--peer-python", help="interpreter with llm-compressor; without it only ours runs")
    parser.add_argument(
        "--peer-dtype",
        default="auto",
        help="dtype of the peer's model; a CPU without bfloat16 products is several times faster in float32",
    )
    parser.add_argument("--flyweight-python", default=sys.executable, help="interpreter with Flyweight")
    parser.add_argument("--text", type=Path, help="calibration text; without it seeded random token ids")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--damp", type=float, default=0.01)
    parser.add_argument("--memory", default="2GB", help="our ceiling")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the compressed checkpoints")
    parser.add_argument("--out", type=Path, help="write table (.md) and figures (.json) under this stem")
    return parser.parse_args()


def main() -> None:
    """Run both sides, print and write the table."""
    arguments = parse_arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokens = arguments.work / "calibration_tokens.npy"
    matrix = calibration_matrix(arguments.model, arguments.text, arguments.samples, arguments.length, arguments.seed)
    np.save(tokens, matrix)
    sides = commands(arguments, tokens)
    measured: dict[str, list[Measurement]] = {name: [] for name in sides}
    for round_number in range(arguments.rounds):
        for name, command in sides.items():
            measured[name].append(run_round(name, command, arguments, round_number))
    text = table(measured)
    heading = {
        "date": dt.date.today().isoformat(),
        "machine": machine_line(),
        "command": " ".join(["python", "benchmarks/compress_1b.py", *sys.argv[1:]]),
        "threads": arguments.threads,
        "calibration": f"{arguments.samples} x {arguments.length} tokens",
    }
    print(f"{json.dumps(heading, indent=1)}\n\n{text}")
    if arguments.out is not None:
        arguments.out.with_suffix(".md").write_text(text + "\n")
        runs = {
            name: [{"seconds": run.seconds, "peak_rss_bytes": run.peak_rss_bytes} for run in side]
            for name, side in measured.items()
        }
        arguments.out.with_suffix(".json").write_text(json.dumps({"heading": heading, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
