"""Prompt lookup: what followed the last tokens when they stood in the prompt or the answer before (Saxena 2023).

Answers that quote, edit or repeat get long runs of right guesses for nothing but a look into a dictionary; other
answers get few guesses, and the controller drops them where they do not pay.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flyweight.engine.proposer import NO_DRAFT, Draft, DraftOutcome, DraftWanted
from flyweight.engine.speculation.controller import DraftController, Prospect

SHORTEST_MATCH = 2
LONGEST_MATCH = 32
CANDIDATES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """Where the last tokens stood before: the place after them, and how many were alike (counted up to 32)."""

    place: int
    length: int


class NGramIndex:
    """The places of every pair of neighbouring tokens in one growing sequence.

    Adding a token costs one entry, looking up compares at most 16 places over at most 32 tokens: neither depends on
    the length of the sequence.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], list[int]] = {}
        self._num_indexed = 0

    def extend(self, token_ids: Sequence[int]) -> None:
        """Index what is new in ``token_ids``, the whole sequence."""
        for end in range(max(self._num_indexed + 1, SHORTEST_MATCH), len(token_ids) + 1):
            self._places.setdefault(tuple(token_ids[end - SHORTEST_MATCH : end]), []).append(end)
        self._num_indexed = len(token_ids)

    def find(self, token_ids: Sequence[int]) -> Match | None:
        """The earlier place whose preceding tokens agree the longest with the sequence's last; of equals the latest.

        Looked at are the 16 latest places of the last two tokens.
        """
        self.extend(token_ids)
        end = len(token_ids)
        places = self._places.get(tuple(token_ids[-SHORTEST_MATCH:]), ())
        best: Match | None = None
        for place in reversed(places[-CANDIDATES - 1 : -1]):
            length = SHORTEST_MATCH
            while length < min(place, LONGEST_MATCH) and token_ids[place - length - 1] == token_ids[end - length - 1]:
                length += 1
            if best is None or length > best.length:
                best = Match(place=place, length=length)
        return best


def continuation(token_ids: Sequence[int], match: Match, count: int) -> tuple[int, ...]:
    """``count`` tokens that followed the match; where it reaches the end, the guess repeats what it has guessed.

    >>> continuation([7, 8, 7, 8], Match(place=2, length=2), 5)
    (7, 8, 7, 8, 7)
    """
    period = len(token_ids) - match.place
    return tuple(token_ids[match.place + step % period] for step in range(count))


class PromptLookup:
    """A proposer that looks into the request's own tokens."""

    def __init__(self, controller: DraftController | None = None) -> None:
        self.controller = controller if controller is not None else DraftController()
        self._indexes: dict[int, NGramIndex] = {}

    def propose(self, wanted: Sequence[DraftWanted]) -> Sequence[Draft]:
        matches = [self._indexes.setdefault(one.id, NGramIndex()).find(one.token_ids) for one in wanted]
        prospects = [
            Prospect(id=one.id, kind=_kind(match), most=0 if match is None else one.most)
            for one, match in zip(wanted, matches, strict=True)
        ]
        lengths = self.controller.lengths(prospects)
        return [
            NO_DRAFT if match is None or not length else Draft(token_ids=continuation(one.token_ids, match, length))
            for one, match, length in zip(wanted, matches, lengths, strict=True)
        ]

    def observe(self, outcomes: Sequence[DraftOutcome], *, batch_tokens: int, seconds: float) -> None:
        self.controller.observe(outcomes, batch_tokens=batch_tokens, seconds=seconds)

    def forget(self, request: int) -> None:
        self._indexes.pop(request, None)
        self.controller.forget(request)


def _kind(match: Match | None) -> str:
    """Matches of like length have like prospects: each kind is judged by itself."""
    if match is None:
        return "none"
    return "2" if match.length == 2 else "3-4" if match.length < 5 else "5-9" if match.length < 10 else "10+"
