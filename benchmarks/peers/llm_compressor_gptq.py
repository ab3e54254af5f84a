"""Run llm-compressor (GPTQ or RTN) on a matrix of calibration tokens and print what it cost as one JSON line.

It runs in an environment of its own (``pip install torch==2.13.0``, then ``pip install llmcompressor``), where
Flyweight is not installed: this file imports nothing of ours and does not know how our compressor works. The token
matrix is the one that our own run gets, so a difference in the result comes from the method and not from the text.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer


def parse_arguments() -> argparse.Namespace:
    """Read the command line; every choice that changes the result is an argument."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--method", choices=("gptq", "rtn"), default="gptq")
    parser.add_argument("--bits", type=int, default=4, help="weight bits")
    parser.add_argument("--group-size", type=int, default=128, help="0: one scale per output channel")
    parser.add_argument("--asymmetric", action="store_true", help="store zero points")
    parser.add_argument("--activation-bits", type=int, default=16, choices=(8, 16), help="8: dynamic per token")
    parser.add_argument("--calibration-tokens", type=Path, help=".npy of token ids [samples, length]; gptq needs it")
    parser.add_argument("--damp", type=float, default=0.01, help="GPTQ damping, a fraction of the mean diagonal")
    parser.add_argument("--block-size", type=int, default=128, help="GPTQ block of columns")
    parser.add_argument("--activation-order", choices=("static", "group", "none"), default="static")
    parser.add_argument("--ignore", nargs="*", default=["lm_head"], help="modules left alone")
    parser.add_argument("--dtype", default="auto", help="dtype to load the model in: auto, float32, bfloat16")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"--out {arguments.out} exists; give a new folder")
    if arguments.method == "gptq" and arguments.calibration_tokens is None:
        parser.error("--method gptq needs --calibration-tokens FILE.npy")
    return arguments


def config_groups(arguments: argparse.Namespace) -> dict[str, object]:
    """The compressed-tensors scheme that the arguments describe."""
    weights: dict[str, object] = {
        "num_bits": arguments.bits,
        "type": "int",
        "symmetric": not arguments.asymmetric,
        "strategy": "group" if arguments.group_size else "channel",
        "dynamic": False,
    }
    if arguments.group_size:
        weights["group_size"] = arguments.group_size
    group: dict[str, object] = {"targets": ["Linear"], "weights": weights}
    if arguments.activation_bits == 8:
        group["input_activations"] = {
            "num_bits": 8,
            "type": "int",
            "symmetric": True,
            "strategy": "token",
            "dynamic": True,
        }
    return {"group_0": group}


def main() -> None:
    """Load, compress, save, report."""
    arguments = parse_arguments()
    groups = config_groups(arguments)
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=arguments.dtype)
    loaded = time.perf_counter()
    if arguments.method == "gptq":
        tokens = np.load(arguments.calibration_tokens)
        samples, length = tokens.shape
        dataset = Dataset.from_dict({"input_ids": tokens.tolist(), "attention_mask": np.ones_like(tokens).tolist()})
        recipe = GPTQModifier(
            config_groups=groups,
            ignore=arguments.ignore,
            dampening_frac=arguments.damp,
            block_size=arguments.block_size,
            actorder=None if arguments.activation_order == "none" else arguments.activation_order,
        )
        oneshot(
            model=model,
            dataset=dataset,
            recipe=recipe,
            max_seq_length=length,
            num_calibration_samples=samples,
            shuffle_calibration_samples=False,
            pipeline="sequential",
        )
    else:
        oneshot(model=model, recipe=QuantizationModifier(config_groups=groups, ignore=arguments.ignore))
    compressed = time.perf_counter()
    model.save_pretrained(arguments.out, save_compressed=True)
    if (arguments.model / "tokenizer.json").exists():
        AutoTokenizer.from_pretrained(arguments.model).save_pretrained(arguments.out)
    saved = time.perf_counter()
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    result = {
        "method": arguments.method,
        "bits": arguments.bits,
        "group_size": arguments.group_size,
        "seconds_load": round(loaded - started, 3),
        "seconds_compress": round(compressed - loaded, 3),
        "seconds_save": round(saved - compressed, 3),
        "peak_rss_bytes": peak_bytes,
        "torch_threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
