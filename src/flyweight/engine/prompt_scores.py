"""The log probabilities of a prompt's own tokens, for requests that ask how likely a text is.

A step that computes such a prompt wants the logits of every token, which for a large vocabulary take much memory. They
are made and reduced part by part; the rows that a choice needs are kept. It knows no samplers and no blocks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flyweight import kernels
from flyweight.engine.request import LiveRequest
from flyweight.engine.sampling import TokenLogProbability
from flyweight.engine.scheduler import Chunk
from flyweight.formats.base import Array

FAR_ABOVE = 1e30  # a shift that makes a token the choice, whatever its logit


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """The rows of logits that a chunk of a request gives: first those that score tokens of its prompt, then those to
    choose from."""

    live: LiveRequest
    targets: tuple[int, ...]
    choices: int

    @property
    def count(self) -> int:
        return len(self.targets) + self.choices


def outputs_of(live: LiveRequest, chunk: Chunk) -> Outputs:
    """Which logits are wanted of a chunk."""
    stop = chunk.start + chunk.count - chunk.drafts
    choices = 1 + chunk.drafts if stop == len(live.known) else 0
    if not live.wants_scores:
        return Outputs(live=live, targets=(), choices=choices)
    # The token at a position is predicted by the row before it.
    first = max(chunk.start + 1, 1 + len(live.prompt_scores))
    return Outputs(live=live, targets=tuple(live.known[first : min(stop, live.num_prompt - 1) + 1]), choices=choices)


def read_scores(outputs: Sequence[Outputs], parts: Iterable[Array]) -> Array:
    """Note the scores with their requests, and give the rows to choose from, float32 (choices, vocab).

    Args:
        parts: the logits of all outputs, row after row, cut anywhere; each is used before the next is made.
    """
    wanted = [(one, target) for one in outputs for target in (*one.targets, *(None for _ in range(one.choices)))]
    choices: list[Array] = []
    scores: list[tuple[LiveRequest, TokenLogProbability]] = []
    row = 0
    for logits in parts:
        here = wanted[row : row + len(logits)]
        row += len(logits)
        # A copy: the part's own memory may be used again.
        choices += [logits[place].copy() for place, (_, target) in enumerate(here) if target is None]
        scored = [(place, one.live, target) for place, (one, target) in enumerate(here) if target is not None]
        if scored:
            rows = logits if len(scored) == len(logits) else logits[[place for place, _, _ in scored]]
            found = score_tokens(
                rows, [target for _, _, target in scored], [live.request.prompt_logprobs or 0 for _, live, _ in scored]
            )
            scores += [(live, score) for (_, live, _), score in zip(scored, found, strict=True)]
    for live, score in scores:  # only now: a step that fails in between is made again
        live.prompt_scores.append(score)
    return np.stack(choices) if choices else np.zeros((0, 0), np.float32)


def score_tokens(logits: Array, targets: Sequence[int], listed: Sequence[int]) -> list[TokenLogProbability]:
    """The log probability of one given token by each row of logits float32 (rows, vocab), and of the most likely."""
    rules = [
        kernels.ChoiceRule(
            edits=kernels.Edits(
                tokens=np.array([target], np.int32),
                factors=np.ones(1, np.float32),
                shifts=np.array([FAR_ABOVE], np.float32),
            )
        )
        for target in targets
    ]
    _, found = kernels.sample_with_log_probabilities(logits, rules, min(max(listed), logits.shape[1]))
    return [
        TokenLogProbability(
            token=target,
            log_probability=float(found.chosen[row]),
            top=tuple(zip(found.top_tokens[row, :count].tolist(), found.top[row, :count].tolist(), strict=True)),
        )
        for row, (target, count) in enumerate(zip(targets, listed, strict=True))
    ]
