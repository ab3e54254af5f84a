"""How far two sets of next-token predictions agree: the figures that every interop check prints and judges.

Plain numpy; knows neither Flyweight nor the libraries that are compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Answer:
    """What Flyweight made of a prompt: ids [tokens], ``prompt_length`` of them given; logits [tokens, vocabulary]."""

    ids: NDArray[np.int64]
    prompt_length: int
    logits: NDArray[np.float32]

    @property
    def greedy(self) -> list[int]:
        """The token that Flyweight chose after each of the prompt's last and the answer's tokens."""
        return [int(token) for token in self.ids[self.prompt_length :]]


def read_answers(path: Path) -> list[Answer]:
    """The file that ``our_answers.py`` wrote."""
    with np.load(path) as file:
        return [
            Answer(
                ids=file[f"ids_{index}"],
                prompt_length=int(file[f"prompt_length_{index}"]),
                logits=file[f"logits_{index}"],
            )
            for index in range(int(file["count"]))
        ]


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log probabilities along the last axis."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def compare_logits(ours: list[Answer], theirs: list[NDArray[np.float32]]) -> dict[str, float]:
    """Largest logit difference, also relative to the largest logit, mean and largest KL in nats, top-1 agreement, over
    all positions of all prompts."""
    difference = max(float(np.abs(a.logits - b).max()) for a, b in zip(ours, theirs, strict=True))
    largest = max(float(np.abs(b).max()) for b in theirs)
    divergences, agreements = [], []
    for a, b in zip(ours, theirs, strict=True):
        p, q = log_softmax(b), log_softmax(a.logits)
        divergences.append((np.exp(p) * (p - q)).sum(axis=-1))
        agreements.append(a.logits.argmax(axis=-1) == b.argmax(axis=-1))
    divergence = np.concatenate(divergences)
    return {
        "positions": float(divergence.size),
        "largest_logit_difference": difference,
        "relative_logit_difference": difference / largest,
        "mean_kl": float(divergence.mean()),
        "largest_kl": float(divergence.max()),
        "top1_agreement": float(np.concatenate(agreements).mean()),
    }


def compare_greedy(ours: list[Answer], theirs: list[list[int]]) -> dict[str, float]:
    """Greedy answers side by side: how many are the same, and how near a tie ours was where the first difference lies.

    A greedy answer of a coarser arithmetic may leave ours only where our two best tokens lie closer together than that
    arithmetic resolves: ``largest_margin`` is the most that our choice was ahead of theirs, in nats, at such a fork.
    """
    identical, tokens, margins = 0, 0, [0.0]
    for a, other in zip(ours, theirs, strict=True):
        fork = next((i for i, (x, y) in enumerate(zip(a.greedy, other, strict=True)) if x != y), None)
        tokens += len(other) if fork is None else fork
        if fork is None:
            identical += 1
            continue
        row = log_softmax(a.logits[a.prompt_length - 1 + fork])
        margins.append(float(row[a.greedy[fork]] - row[other[fork]]))
    return {
        "answers": float(len(ours)),
        "identical": float(identical),
        "tokens_before_forks": float(tokens),
        "largest_margin": max(margins),
    }


def compare_chosen(ours: list[Answer], theirs: list[list[float]]) -> dict[str, float]:
    """Log probabilities of the ids given (from the second on), side by side: mean and largest difference in nats."""
    differences = []
    for a, other in zip(ours, theirs, strict=True):
        rows = log_softmax(a.logits)[:-1]
        mine = np.take_along_axis(rows, a.ids[1:, None], axis=1)[:, 0]
        differences.append(np.abs(mine - np.array(other)))
    difference = np.concatenate(differences)
    return {"mean_difference": float(difference.mean()), "largest_difference": float(difference.max())}
