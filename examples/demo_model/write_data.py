"""Writes the data that ships with the demo model: golden prompts, calibration conversations and held-out text.

Run from the repository root: ``python -m examples.demo_model.write_data``. Everything is a pure function of the seed.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import Tokenizer

from examples.demo_model import tasks
from examples.demo_model.documents import BOS, MAX_LINES, PAD, Mix, draw_conversation, draw_retrieval, pack_row
from examples.demo_model.tasks import Conversation
from examples.demo_model.train_tokenizer import CONTEXT_LENGTH
from examples.demo_model.words import Split

NUM_GOLDEN = 120
NUM_CALIBRATION = 800
NUM_HELDOUT_ROWS = 150
# Room for a wrong answer to run on a little before it is cut.
SPARE_TOKENS = 4
# What flyweight's text readers take as the border between two documents.
SEPARATOR = "<|endoftext|>"


def golden_conversations(seed: int) -> dict[str, list[Conversation]]:
    """Returns, per task, ``NUM_GOLDEN`` distinct single-question conversations of the golden split."""
    draws: dict[str, Callable[[random.Random, Split], Conversation]] = {
        "facts": tasks.facts,
        "json": tasks.json_record,
        "tool_calls": tasks.tool_call,
        "addition": tasks.addition,
        "addition_steps": tasks.addition_steps,
        "refusal": tasks.refusal,
    }
    found = {task: distinct(draw, random.Random(f"golden/{seed}/{task}")) for task, draw in draws.items()}
    rng = random.Random(f"golden/{seed}/retrieval")
    # Lengths in even steps from the shortest list to the longest, so that every distance is measured.
    lengths = [2 + index * (MAX_LINES - 2) // (NUM_GOLDEN - 1) for index in range(NUM_GOLDEN)]
    found["retrieval"] = [tasks.retrieval(rng, "golden", num_lines) for num_lines in lengths]
    return found


def distinct(draw: Callable[[random.Random, Split], Conversation], rng: random.Random) -> list[Conversation]:
    """Draws golden conversations until ``NUM_GOLDEN`` different ones are found; stops where the split has fewer."""
    found: dict[tuple[tuple[str, str], ...], Conversation] = {}
    for _ in range(100 * NUM_GOLDEN):
        conversation = draw(rng, "golden")
        found.setdefault(conversation.messages, conversation)
        if len(found) == NUM_GOLDEN:
            break
    return list(found.values())


def golden_line(tokenizer: Tokenizer, conversation: Conversation, number: int) -> dict[str, object]:
    """Returns one line of a golden file."""
    *prompt, (_, expected) = conversation.messages
    num_expected = len(tokenizer.encode(expected).ids) + 1
    line: dict[str, object] = {
        "id": f"{conversation.task}-{number:04d}",
        "task": conversation.task,
        "messages": [{"role": role, "content": content} for role, content in prompt],
        "expected": expected,
        "max_tokens": num_expected + SPARE_TOKENS,
    }
    if conversation.task == "retrieval":
        content = prompt[-1][1]
        line["distance"] = len(tokenizer.encode(content[content.index(f"{expected}\n") :]).ids)
    return line


def calibration_lines(seed: int) -> list[dict[str, object]]:
    """Returns conversations of the train split, one in eight a retrieval list, with their answers."""
    rng = random.Random(f"calibration/{seed}")
    mix = Mix(max_lines=MAX_LINES - 10, retrieval_share=0.0)
    lines: list[dict[str, object]] = []
    while len(lines) < NUM_CALIBRATION:
        draw = draw_retrieval if len(lines) % 8 == 0 else draw_conversation
        conversation = draw(rng, "train", mix)
        if conversation.task != "text":
            lines.append({"messages": [{"role": role, "content": text} for role, text in conversation.messages]})
    return lines


def heldout_text(tokenizer: Tokenizer, seed: int) -> str:
    """Returns documents of the golden split in the mix of training, with a line ``<|endoftext|>`` between two."""
    rng = random.Random(f"heldout/{seed}")
    mix = Mix(max_lines=MAX_LINES, retrieval_share=0.25)
    rows = [pack_row(rng, tokenizer, "golden", mix, CONTEXT_LENGTH)[0] for _ in range(NUM_HELDOUT_ROWS)]
    text = "".join(tokenizer.decode(row, skip_special_tokens=False) for row in rows).replace(PAD, "")
    return text.replace(BOS, f"\n{SEPARATOR}\n{BOS}").removeprefix(f"\n{SEPARATOR}\n") + "\n"


def write_lines(path: Path, lines: Iterable[dict[str, object]]) -> None:
    """Writes JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("src/flyweight/demo_model"), help="has tokenizer.json")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    data = arguments.model / "data"
    (data / "golden").mkdir(parents=True, exist_ok=True)
    for task, conversations in golden_conversations(arguments.seed).items():
        lines = [golden_line(tokenizer, one, number) for number, one in enumerate(conversations, 1)]
        write_lines(data / "golden" / f"{task}.jsonl", lines)
    write_lines(data / "calibration.jsonl", calibration_lines(arguments.seed))
    (data / "heldout.txt").write_text(heldout_text(tokenizer, arguments.seed))


if __name__ == "__main__":
    main()
