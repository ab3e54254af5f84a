"""Load a compressed checkpoint in transformers through compressed-tensors and hold its logits against Flyweight's.

    python check_transformers.py MODEL ANSWERS.npz [--limit 1e-4 | --mean-kl-limit 1e-3]

Runs in an environment with torch, transformers and compressed-tensors; Flyweight need not be installed. transformers
decodes the weights on the first call and computes in float32, so only the order of additions differs. Where the
checkpoint asks for 8-bit activations they are left in float32 too, unless ``--quantized-activations`` is given: then
transformers rounds them once per token and Flyweight once per piece of a token, which moves logits by what 8 bits
resolve, and the divergence is judged. Exit status 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import compressed_tensors
import torch
import transformers
from agreement import compare_logits, read_answers
from transformers import AutoModelForCausalLM


def main() -> int:
    """Compare, print one JSON line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--quantized-activations", action="store_true", help="as the checkpoint asks, not float32")
    parser.add_argument("--limit", type=float, help="largest difference of any logit, relative to the largest logit")
    parser.add_argument("--mean-kl-limit", type=float, help="mean KL in nats, instead of --limit")
    arguments = parser.parse_args()
    if (arguments.limit is None) == (arguments.mean_kl_limit is None):
        parser.error("give one of --limit and --mean-kl-limit")
    answers = read_answers(arguments.answers)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    if not arguments.quantized_activations:
        for module in model.modules():
            scheme = getattr(module, "quantization_scheme", None)
            if scheme is not None:
                scheme.input_activations = None
    with torch.inference_mode():
        logits = [model(torch.from_numpy(answer.ids)[None]).logits[0].float().numpy() for answer in answers]
    figures = compare_logits(answers, logits)
    if arguments.limit is not None:
        passed = figures["relative_logit_difference"] <= arguments.limit and figures["largest_kl"] <= 1e-6
    else:
        passed = figures["mean_kl"] <= arguments.mean_kl_limit
    versions = {"transformers": transformers.__version__, "compressed_tensors": compressed_tensors.__version__}
    print(json.dumps({"model": arguments.model.name, "passed": passed, **figures, **versions}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
