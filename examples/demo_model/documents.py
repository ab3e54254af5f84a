"""Conversations to tokens: the mix of tasks, loss weights per token, and packing into rows of the context length.

Batch ``step`` of ``seed`` is a pure function of both numbers, so an interrupted training run continues with exactly the
data it would have seen. Knows nothing about the network.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from examples.demo_model import tasks
from examples.demo_model.tasks import Conversation
from examples.demo_model.words import Split

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
ROLE_TOKENS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
SPECIAL_TOKENS = (PAD, BOS, END, *ROLE_TOKENS.values())

SYSTEM_MESSAGE = "You are a careful clerk."
MAX_LINES = 66
SHORT_ROW = 128
_SHORT_TASKS = (
    tasks.facts,
    tasks.json_record,
    tasks.tool_call,
    tasks.addition,
    tasks.addition_steps,
    tasks.refusal,
    tasks.text,
    tasks.repeat,
    tasks.typed_record,
)
# Shares of documents in the order of _SHORT_TASKS. Repeating comes first: copying is what most other tasks need.
EARLY_WEIGHTS = (2.0, 2.5, 2.5, 3.0, 2.0, 1.5, 1.0, 6.0, 0.0)
LATE_WEIGHTS = (2.5, 3.5, 3.5, 3.5, 2.5, 1.8, 1.0, 0.5, 0.0)
# What is learned slowest gets most of the last stretch, in which the rate falls to zero.
FINAL_WEIGHTS = (2.5, 5.0, 5.0, 2.5, 1.5, 1.0, 0.8, 1.0, 0.0)
TYPED_WEIGHTS = (2.5, 1.0, 4.0, 2.5, 1.5, 1.0, 0.8, 1.0, 6.0)

ANSWER_WEIGHT, PROMPT_WEIGHT, TEXT_WEIGHT = 1.0, 0.1, 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """How training text is mixed at one point of the curriculum.

    ``max_lines`` bounds the retrieval lists, ``max_questions`` what is asked of one list; ``retrieval_share`` is the
    share of rows that start with a list. ``prefers_short`` draws the logarithm of the length evenly, not the length.
    """

    max_lines: int
    retrieval_share: float
    max_questions: int = 6
    prefers_short: bool = False
    weights: tuple[float, ...] = LATE_WEIGHTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Curriculum:
    """The steps at which the mix changes: ``ramp_steps`` to the longest lists, then late, final and typed mix."""

    ramp_steps: int
    late_step: int
    final_step: int
    typed_step: int


def mix_at(step: int, curriculum: Curriculum, length: int) -> Mix:
    """Returns the mix of rows of ``length`` tokens at ``step``.

    Retrieval lists grow linearly from 4 lines to what fits over ``ramp_steps``; until ``late_step`` a good part of the
    text is plain repetition; from ``final_step`` on more of it is records and calls. From ``typed_step`` on records ask
    for types that the sentence does not suggest, and long lists are as frequent as short ones: what still failed.
    """
    progress = min(1.0, step / max(1, curriculum.ramp_steps))
    if step < curriculum.late_step:
        weights = EARLY_WEIGHTS
    elif step < curriculum.final_step:
        weights = LATE_WEIGHTS
    else:
        weights = FINAL_WEIGHTS if step < curriculum.typed_step else TYPED_WEIGHTS
    longest = min(MAX_LINES, length // 8)
    is_long = length > SHORT_ROW
    return Mix(
        max_lines=round(4 + progress * (longest - 4)),
        retrieval_share=0.9 if is_long else 0.3,
        max_questions=16 if is_long else 8,
        prefers_short=step < curriculum.typed_step,
        weights=weights,
    )


def draw_conversation(rng: random.Random, split: Split, mix: Mix) -> Conversation:
    """Draws one conversation of any task, sometimes with a system message or of several turns."""
    drawn = rng.choices(_SHORT_TASKS, mix.weights)[0](rng, split)
    if drawn.task in ("text", "tool_calls", "repeat"):
        return drawn
    messages = drawn.messages
    if rng.random() < 0.1:
        following = rng.choices(_SHORT_TASKS[:6], mix.weights[:6])[0](rng, split)
        messages += tuple(message for message in following.messages if message[0] != "system" and drawn.task != "text")
        if following.task == "tool_calls":
            messages = following.messages
    if rng.random() < 0.1 and messages[0][0] == "user":
        messages = (("system", SYSTEM_MESSAGE), *messages)
    return Conversation(task=drawn.task, messages=messages)


def draw_retrieval(rng: random.Random, split: Split, mix: Mix) -> Conversation:
    """Draws a retrieval list within the curriculum, with several questions (each is cheap next to the list)."""
    evenly, short = rng.randint(2, mix.max_lines), round(2 * (mix.max_lines / 2) ** rng.random())
    num_lines = short if mix.prefers_short else evenly
    return tasks.retrieval(rng, split, num_lines, num_questions=rng.randint(1, mix.max_questions))


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Returns the id of a special token; ValueError when the tokenizer lacks it."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token}; train it with train_tokenizer.py")
    return found


def render(conversation: Conversation) -> str:
    """Returns the conversation as the chat template writes it, answers included."""
    parts = [BOS]
    for role, content in conversation.messages:
        parts.append(f"{ROLE_TOKENS.get(role, '')}{content}{END}")
    return "".join(parts)


def encode(tokenizer: Tokenizer, conversation: Conversation) -> tuple[list[int], list[float]]:
    """Returns token ids of ``render(conversation)`` and the loss weight of predicting each of them."""
    ids, weights = [token_id(tokenizer, BOS)], [0.0]
    end = token_id(tokenizer, END)
    for role, content in conversation.messages:
        if role in ROLE_TOKENS:
            ids.append(token_id(tokenizer, ROLE_TOKENS[role]))
            weights.append(PROMPT_WEIGHT)
        piece = [*tokenizer.encode(content, add_special_tokens=False).ids, end]
        weight = {"assistant": ANSWER_WEIGHT, "text": TEXT_WEIGHT}.get(role, PROMPT_WEIGHT)
        ids += piece
        weights += [weight] * len(piece)
    return ids, weights


def pack_row(
    rng: random.Random, tokenizer: Tokenizer, split: Split, mix: Mix, length: int
) -> tuple[list[int], list[float]]:
    """Returns one row of ``length`` tokens that starts with a document start and holds whole documents only.

    What the last documents leave over is padded with weight 0.
    """
    ids: list[int] = []
    weights: list[float] = []
    refused = 0
    if rng.random() < mix.retrieval_share:
        ids, weights = encode(tokenizer, draw_retrieval(rng, split, mix))
        while len(ids) > length:
            ids, weights = encode(tokenizer, draw_retrieval(rng, split, mix))
    while refused < 4 and length - len(ids) > 20:
        piece_ids, piece_weights = encode(tokenizer, draw_conversation(rng, split, mix))
        if len(ids) + len(piece_ids) <= length:
            ids += piece_ids
            weights += piece_weights
        else:
            refused += 1
    padding = length - len(ids)
    return ids + [token_id(tokenizer, PAD)] * padding, weights + [0.0] * padding


def draw_rows(
    tokenizer: Tokenizer, seed: str, step: int, num_rows: int, length: int, curriculum: Curriculum
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids (int64) and loss weights (float32), both (num_rows, length), of ``step`` under ``seed``."""
    rng = random.Random(f"train/{seed}/{step}/{length}")
    mix = mix_at(step, curriculum, length)
    rows = [pack_row(rng, tokenizer, "train", mix, length) for _ in range(num_rows)]
    return np.array([ids for ids, _ in rows], np.int64), np.array([weights for _, weights in rows], np.float32)
