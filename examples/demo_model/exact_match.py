"""Exact match per task without decoding: an answer is what greedy decoding gives exactly if, with the answer as input,
every one of its tokens (the end token included) is the most likely one.

Used while training on the dev split. The published figures come from real greedy decoding (``evaluate.py``).
"""

from __future__ import annotations

import random

import torch
from tokenizers import Tokenizer

from examples.demo_model import tasks
from examples.demo_model.documents import ANSWER_WEIGHT, MAX_LINES, PAD, encode
from examples.demo_model.model import DemoModel
from examples.demo_model.tasks import Conversation


def dev_conversations(rng: random.Random, num_per_task: int) -> list[Conversation]:
    """Draws ``num_per_task`` single-question conversations of every task from the dev split."""
    drawn = [
        draw(rng, "dev")
        for draw in (
            tasks.facts,
            tasks.json_record,
            tasks.tool_call,
            tasks.addition,
            tasks.addition_steps,
            tasks.refusal,
        )
        for _ in range(num_per_task)
    ]
    return drawn + [tasks.retrieval(rng, "dev", rng.randint(2, MAX_LINES)) for _ in range(num_per_task)]


@torch.no_grad()
def exact_match(
    model: DemoModel, tokenizer: Tokenizer, conversations: list[Conversation], batch_size: int = 32
) -> dict[str, float]:
    """Returns, per task, the share of conversations whose answers are all exactly the greedy ones."""
    encoded = sorted(((*encode(tokenizer, one), one.task) for one in conversations), key=lambda item: len(item[0]))
    pad = tokenizer.token_to_id(PAD)
    hits: dict[str, list[bool]] = {}
    for start in range(0, len(encoded), batch_size):
        batch = encoded[start : start + batch_size]
        length = len(batch[-1][0])
        ids = torch.tensor([row + [pad] * (length - len(row)) for row, _, _ in batch])
        is_answer = (
            torch.tensor([weights + [0.0] * (length - len(weights)) for _, weights, _ in batch]) == ANSWER_WEIGHT
        )
        with torch.autocast("cpu", torch.bfloat16):
            best = model(ids)[:, :-1].argmax(-1)
        right = ((best == ids[:, 1:]) | ~is_answer[:, 1:]).all(dim=1)
        for (_, _, task), hit in zip(batch, right.tolist(), strict=True):
            hits.setdefault(task, []).append(hit)
    return {task: round(sum(found) / len(found), 4) for task, found in sorted(hits.items())}
