"""What a step's logits mean for each request: the tokens that follow, or why none can be chosen.

Rows without guesses are chosen together in one call; a damaged row is found out and costs its own request only.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from flyweight.engine.constraint import AllowedTokens, AnswerConstraint
from flyweight.engine.proposer import AcceptanceRule, Draft
from flyweight.engine.sampling import Sampler, choose_tokens
from flyweight.errors import FlyweightError
from flyweight.formats.base import Array

log = logging.getLogger("flyweight")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """A request whose next tokens are to be chosen.

    Attributes:
        draft: guesses that the step has verified, perhaps none; the request has as many rows of logits and one more.
        allowed: what its constraint allows in each of them, where it has one.
        failure: why nothing can be chosen for it.
    """

    sampler: Sampler
    draft: Draft
    allowed: AllowedTokens | None = None
    failure: FlyweightError | None = None

    @property
    def num_rows(self) -> int:
        return 1 + len(self.draft.token_ids)


def choose(turns: Sequence[Turn], logits: Array, acceptance: AcceptanceRule) -> list[list[int] | FlyweightError]:
    """For each request the tokens that follow.

    Args:
        logits: float32 (rows, vocab), the rows of the requests one after the other: after its newest token and each
            guess.
    """
    ends = list(accumulate(turn.num_rows for turn in turns))
    chosen: list[list[int] | FlyweightError] = [turn.failure or [] for turn in turns]
    for turn in turns:
        if turn.allowed is not None:
            turn.sampler.constrain(turn.allowed)
    plain = [place for place, turn in enumerate(turns) if turn.failure is None and not turn.draft.token_ids]
    try:
        rows = logits if len(plain) == len(logits) else logits[[ends[place] - 1 for place in plain]]
        for place, token in zip(plain, choose_tokens([turns[place].sampler for place in plain], rows), strict=True):
            chosen[place] = [token]
    except Exception:  # noqa: BLE001 - one row is damaged: find out which, and let the others go on
        for place in plain:
            chosen[place] = _one_choice(turns[place].sampler, logits[ends[place] - 1])
    for place, turn in enumerate(turns):
        if turn.failure is None and turn.draft.token_ids:
            try:
                chosen[place] = acceptance(turn.sampler, logits[ends[place] - turn.num_rows : ends[place]], turn.draft)
            except Exception as error:  # noqa: BLE001 - it ends this request only
                chosen[place] = _as_failure(error)
    return chosen


def _one_choice(sampler: Sampler, row: Array) -> list[int] | FlyweightError:
    try:
        return [sampler.choose(row)]
    except Exception as error:  # noqa: BLE001 - it ends this request only
        return _as_failure(error)


def _as_failure(error: Exception) -> FlyweightError:
    """What is told of a request whose choice failed; what this package did not foresee ends that request only."""
    if isinstance(error, FlyweightError):
        return error
    log.error("the choice of a token failed", exc_info=error)
    return FlyweightError(f"the choice of a token failed: {type(error).__name__}")


def possible_draft(draft: Draft, constraint: AnswerConstraint | None) -> Draft:
    """What of a draft is worth verifying: guesses that the constraint allows.

    Of guesses that were drawn the first that is not allowed stays: that it was drawn, and refused, is part of the
    acceptance rule, without which the answer would be distributed otherwise.
    """
    if constraint is None or not draft.token_ids:
        return draft
    return draft.cut(constraint.cut(draft.token_ids) + (draft.probabilities is not None))
