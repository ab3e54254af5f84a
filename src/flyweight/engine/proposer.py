"""The seam for speculation: who guesses tokens, and by which rule the model's own choice accepts them.

A running request whose newest token alone is missing may get a draft: tokens guessed to follow. The scheduler counts
them as tokens to compute after the newest one (cutting them where the budget or the cache is short), the step computes
the logits after each, and the rule chooses tokens from these as it would have done one by one. What the draft got
wrong is rolled back by lowering the tokens computed. Guesses change the speed, never the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from flyweight.engine.sampling import Sampler
from flyweight.formats.base import Array


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """Guessed tokens. ``probabilities`` are float32 (tokens, vocab) where they were drawn from distributions, and None
    where each is the only guess that its place could have got."""

    token_ids: tuple[int, ...] = ()
    probabilities: Array | None = None

    def cut(self, count: int) -> "Draft":
        """The first ``count`` guesses."""
        if count >= len(self.token_ids):
            return self
        probabilities = None if self.probabilities is None else self.probabilities[:count]
        return Draft(token_ids=self.token_ids[:count], probabilities=probabilities)


NO_DRAFT = Draft()


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftWanted:
    """A request that may get a draft: its known tokens (the engine's own list: read it now, do not keep or change
    it), how many guesses could be of use, and its sampler, for proposers that draw as it would."""

    id: int
    token_ids: Sequence[int]
    most: int
    sampler: Sampler


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftOutcome:
    """What became of a draft: guesses verified, and how many of them, from the first, were right."""

    id: int
    proposed: int
    accepted: int


class Proposer(Protocol):
    """Guesses what follows. Called by the engine's thread only."""

    def propose(self, wanted: Sequence[DraftWanted]) -> Sequence[Draft]:
        """One draft for each, empty where it has no guess or guessing does not pay."""
        ...

    def observe(self, outcomes: Sequence[DraftOutcome], *, batch_tokens: int, seconds: float) -> None:
        """What a step made of its drafts (none for a step without any), how many tokens it computed and its time."""
        ...

    def forget(self, request: int) -> None:
        """The request has ended, or lost its place in the cache and will begin again."""
        ...


class AcceptanceRule(Protocol):
    """Chooses tokens by the logits after a request's newest token and after each guess."""

    def __call__(self, sampler: Sampler, logits: Array, draft: Draft) -> list[int]:
        """At least one token, at most one more than the draft has: guesses accepted, then the one chosen where the
        first was wrong or after all of them. The sampler has counted exactly these as chosen.

        Args:
            logits: float32 (len(draft.token_ids) + 1, vocab).
        """
        ...


def accept_what_would_be_chosen(sampler: Sampler, logits: Array, draft: Draft) -> list[int]:
    """Choose token by token and go on while the choice is the guess.

    Exact for guesses without probabilities: the choice is the request's own, by its own random numbers, so that an
    answer is the same with and without speculation, also when it is sampled.
    """
    chosen: list[int] = []
    for place, row in enumerate(logits):
        chosen.append(sampler.choose(row))
        if place == len(draft.token_ids) or chosen[-1] != draft.token_ids[place]:
            break
    return chosen
