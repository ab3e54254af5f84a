"""What each option of our GPTQ is worth: one recipe per row, everything else equal, measured by ``flyweight evaluate``.

    python benchmarks/gptq_options.py --model DIR --calibration IDS.npy --eval-text FILE --work DIR [--stories 100]

KL is of the original's next-token distribution from the compressed model's, mean over tokens, in nats. The table is
made twice: with all calibration sequences, and with ``--few`` of them.
"""

import argparse
import time
from pathlib import Path

import flyweight

SEPARATOR = "<|endoftext|>"
ROWS = {
    "rtn, min-max": ("rtn", "scales: minmax"),
    "rtn, clipped": ("rtn", "scales: mse"),
    "gptq as published": ("gptq", "correct: false, shrinkage: 0, order: none, scales: minmax"),
    "+ scales by loss": ("gptq", "correct: false, shrinkage: 0, order: none"),
    "+ order of groups": ("gptq", "correct: false, shrinkage: 0"),
    "+ shrinkage": ("gptq", "correct: false"),
    "+ correction (default)": ("gptq", ""),
    "default, no shrinkage": ("gptq", "shrinkage: 0"),
}


def measure(arguments: argparse.Namespace, name: str, text: Path, sequences: int) -> str:
    """Compress by one row's recipe, evaluate, and give the row of the table."""
    method, options = ROWS[name]
    recipe = arguments.work / "recipe.yaml"
    form = f"{{bits: {arguments.bits}, group_size: {arguments.group_size}}}"
    recipe.write_text(f"rules:\n  - {{match: '*', method: {method}, format: {form}, options: {{{options}}}}}\n")
    folder = arguments.work / f"{arguments.bits}-{arguments.group_size}-{sequences}-{list(ROWS).index(name)}"
    start = time.perf_counter()
    chosen = flyweight.CompressOptions(
        calibration=arguments.calibration, sequences=sequences, sequence_length=arguments.sequence_length
    )
    flyweight.compress(arguments.model, folder, recipe, chosen)
    seconds = time.perf_counter() - start
    report = flyweight.evaluate(
        folder, against=arguments.model, text=text, options=flyweight.EvaluateOptions(protocol="documents")
    )
    comparison = report.text.comparison
    kl, top1 = comparison.kl_mean, comparison.top1
    return f"| {name} | {kl.value:.4f} [{kl.low:.4f}, {kl.high:.4f}] | {top1.value:.3f} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--calibration", "--eval-text", "--work"):
        parser.add_argument(name, type=Path, required=True)
    for name, default in (("stories", 100), ("bits", 4), ("group-size", 32), ("sequence-length", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("sequences", 128), ("few", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    text = arguments.work / "text.txt"
    stories = arguments.eval_text.read_text().split(SEPARATOR)[: arguments.stories]
    text.write_text(f"\n{SEPARATOR}\n".join(story.strip() for story in stories))
    for sequences in (arguments.sequences, arguments.few):
        print(f"\nint{arguments.bits} g{arguments.group_size}, {sequences} x {arguments.sequence_length} tokens\n")
        print("| recipe | mean KL (95 %) | top-1 | seconds |\n|---|---|---|---|", flush=True)
        for name, (method, _) in ROWS.items():
            if method == "gptq" or sequences == arguments.sequences:
                print(measure(arguments, name, text, sequences), flush=True)


if __name__ == "__main__":
    main()
