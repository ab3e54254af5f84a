"""What the fast paths cost in quality: logits and KL divergence of every way to compute, against float32.

    python benchmarks/kernel_paths.py --model DIR --text FILE --work DIR [--windows 16] [--length 256]

The weights are held fixed: each compressed checkpoint (rounded to nearest here) is compared with itself computed in
float32 with a float32 cache on the ``generic`` instruction set, which adds in the plain order. So what is seen is the
cost of the inputs' rounding, the cache and the order of sums alone, not of the compression.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from measured_run import machine_line

import flyweight
from flyweight import kernels
from flyweight.engine.load import load
from flyweight.formats.base import Array

WEIGHTS = {"bfloat16": None, "int8": "int8", "w8a8": "w8a8", "int4": "int4"}
COMPUTES = {
    "bfloat16": ("float32", "bfloat16"),
    "int8": ("float32", "bfloat16", "int8"),
    "w8a8": ("float32", "auto"),
    "int4": ("float32", "bfloat16", "int8"),
}
CACHES = ("bfloat16", "float16", "int8", "int4")


def predictions(folder: Path, windows: list[list[int]], compute: str, cache: str) -> Array:
    """Logits float32 (tokens, vocabulary) of all windows."""
    with np.errstate(all="raise"):
        model = load(folder, compute=compute, kv_dtype=cache, kv_most_kl=100.0, cache_tokens=4096)  # type: ignore[arg-type]
        return np.concatenate([logits for _, _, logits in model.score(windows)])


def log_probabilities(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def compare(label: str, exact: Array, found: Array) -> str:
    """A row of the table."""
    p, q = log_probabilities(exact), log_probabilities(found)
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    difference = np.abs(exact - found)
    same = (exact.argmax(axis=1) == found.argmax(axis=1)).mean()
    return (
        f"| {label} | {np.sqrt((difference**2).mean()) / exact.std():.2g} | {difference.max():.3g} "
        f"| {1000 * kl.mean():.3g} | {1000 * np.quantile(kl, 0.99):.3g} | {100 * same:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--text", "--work"):
        parser.add_argument(name, type=Path, required=True)
    for name, default in (("windows", 16), ("length", 256), ("group-size", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    ids = load(arguments.model).tokenizer.encode(
        arguments.text.read_text()[: arguments.windows * arguments.length * 16]
    )
    count = arguments.windows * arguments.length
    if len(ids) < count:
        raise SystemExit(f"--text has {len(ids)} tokens; {count} are needed")
    windows = np.array(ids[:count]).reshape(arguments.windows, arguments.length).tolist()
    print(f"{machine_line()}, {os.path.basename(arguments.model)}, {arguments.windows} x {arguments.length} tokens\n")
    print("| weights, inputs, cache, instructions | rms of logits | largest | mean KL, millinats | p99 | top-1, % |")
    print("|---|---|---|---|---|---|")
    for weights, recipe in WEIGHTS.items():
        folder = arguments.model
        if recipe is not None:
            folder = arguments.work / weights
            overrides = {"group_size": arguments.group_size} if weights == "int4" else {}
            if not folder.exists():
                flyweight.compress(arguments.model, folder, recipe, flyweight.CompressOptions(**overrides))
        with kernels.use_isa("generic"):
            exact = predictions(folder, windows, "float32", "float32")
        for isa in kernels.available_isas():
            with kernels.use_isa(isa):
                for compute in COMPUTES[weights]:
                    found = predictions(folder, windows, compute, "float32")
                    print(compare(f"{weights}, {compute}, float32, {isa}", exact, found), flush=True)
        for cache in CACHES:
            print(
                compare(f"{weights}, float32, {cache}, {isa}", exact, predictions(folder, windows, "float32", cache)),
                flush=True,
            )


if __name__ == "__main__":
    main()
