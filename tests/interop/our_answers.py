"""Write what Flyweight makes of a checkpoint: prompts, greedy answers, and the logits of both, for others to check.

    python our_answers.py MODEL OUT.npz [--compute float32] [--prompt TEXT ...]

Without ``--prompt`` the prompts are the first golden ones of every task of the demo model. The file holds, for prompt
i, ``ids_i`` (prompt and answer), ``prompt_length_i`` and ``logits_i`` float32 [tokens, vocabulary]: token ids, so that
whoever checks needs no tokenizer. Runs where Flyweight is installed and needs nothing else.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from flyweight import demo_model
from flyweight.engine.load import load
from flyweight.engine.sampling import SamplingOptions
from flyweight.evaluation.golden import read_golden

PROMPTS_PER_TASK = 2


def golden_prompts() -> list[Any]:
    """The first conversations of every task of the demo model."""
    golden = read_golden(demo_model.golden_path(), max_per_task=PROMPTS_PER_TASK)
    return [prompt.messages for prompt in golden.prompts]


def main() -> None:
    """Answer, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--compute", default="float32", choices=("auto", "float32", "bfloat16", "int8"))
    parser.add_argument("--prompt", action="append", help="text instead of the demo model's golden prompts")
    parser.add_argument("--max-tokens", type=int, default=24)
    arguments = parser.parse_args()
    model = load(arguments.model, compute=arguments.compute)
    prompts = arguments.prompt if arguments.prompt is not None else golden_prompts()
    options = SamplingOptions(temperature=0.0, max_tokens=arguments.max_tokens, ignore_eos=True)
    arrays: dict[str, Any] = {"count": len(prompts)}
    for index, (prompt, answer) in enumerate(zip(prompts, model.generate(prompts, options), strict=True)):
        prompt_ids = model.encode(prompt)
        ids = [*prompt_ids, *answer.token_ids]
        rows = [logits for _, _, logits in model.score([ids])]
        arrays[f"ids_{index}"] = np.array(ids, dtype=np.int64)
        arrays[f"prompt_length_{index}"] = len(prompt_ids)
        arrays[f"logits_{index}"] = np.concatenate(rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(arguments.out, **arrays)
    print(f"{arguments.out}: {len(prompts)} answers of {arguments.model} computed in {arguments.compute}")
    for line in model.description:
        print(f"  {line}")


if __name__ == "__main__":
    main()
