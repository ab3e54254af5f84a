"""Greedy answers of an exported folder to the golden prompts, decoded by transformers: exact match per task.

Run from the repository root: ``python -m examples.demo_model.evaluate``. Needs transformers beside torch; it is the
independent check of what ``flyweight evaluate`` reports for the same folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("src/flyweight/demo_model"))
    parser.add_argument("--golden", type=Path, default=Path("src/flyweight/demo_model/data/golden"))
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--limit", type=int, default=None, help="prompts per task; all by default")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print per task")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    for path in sorted(arguments.golden.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()][: arguments.limit]
        answers = answer_all(model, tokenizer, lines)
        wrong = [
            (line, answer) for line, answer in zip(lines, answers, strict=True) if answer != line["expected"].strip()
        ]
        print(f"{path.stem:16} {1 - len(wrong) / len(lines):6.1%} of {len(lines)}", flush=True)
        for line, answer in wrong[: arguments.show]:
            print(f"    {line['id']}: expected {line['expected']!r}, got {answer!r}")


@torch.no_grad()
def answer_all(model, tokenizer, lines: list[dict], batch_size: int = 24) -> list[str]:  # type: ignore[no-untyped-def,type-arg]
    """Returns the stripped greedy answer to every golden line, in order."""
    answers = []
    for start in range(0, len(lines), batch_size):
        batch = lines[start : start + batch_size]
        texts = [
            tokenizer.apply_chat_template(line["messages"], tokenize=False, add_generation_prompt=True)
            for line in batch
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        limit = max(line["max_tokens"] for line in batch)
        output = model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        for line, row in zip(batch, output[:, inputs["input_ids"].shape[1] :], strict=True):
            answers.append(tokenizer.decode(row[: line["max_tokens"]], skip_special_tokens=True).strip())
    return answers


if __name__ == "__main__":
    main()
