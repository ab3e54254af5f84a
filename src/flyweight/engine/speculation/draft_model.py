"""A second, smaller model of the same vocabulary guesses what the first will say.

It keeps its own cache blocks: a sequence of its own for each request, rolled back to what was accepted. Greedy
requests get its most likely tokens. Sampled ones get tokens drawn as they themselves would draw, with the
probabilities, for the rule of ``acceptance``; what is drawn there depends on the seed alone, but is not what plain
decoding would have drawn with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from flyweight import kernels
from flyweight.engine.proposer import NO_DRAFT, Draft, DraftOutcome, DraftWanted
from flyweight.engine.sampling import Sampler, kept_probabilities
from flyweight.engine.speculation.acceptance import GUESS
from flyweight.engine.speculation.controller import DraftController, Prospect
from flyweight.errors import ResourceError, UsageError
from flyweight.formats.base import Array
from flyweight.runtime.batch import Batch
from flyweight.runtime.sequences import CachedSequence, SequencePlanner

KIND = "draft model"


@dataclass(kw_only=True, slots=True)
class _Copy:
    """A request as the draft model has it: tokens whose keys and values lie in its cache."""

    sequence: CachedSequence = field(default_factory=CachedSequence)
    tokens: list[int] = field(default_factory=list)
    num_known: int = 0

    def roll_back_to(self, known: Sequence[int]) -> None:
        """Keep what agrees with ``known``, and compute at least its last token again."""
        agreed = min(self.num_known, len(self.tokens))  # known before, and known tokens do not change
        while agreed < min(len(self.tokens), len(known)) and self.tokens[agreed] == known[agreed]:
            agreed += 1
        agreed = min(agreed, len(known) - 1)
        del self.tokens[agreed:]
        self.sequence.length, self.num_known = agreed, len(known)


class DraftModel:
    """A proposer that asks another model.

    Args:
        forward: the draft model's logits float32 (outputs, vocab) of a batch's ``output_rows``.
        planner: gives out the draft model's cache blocks; all of them are this object's.
        vocab_size, draft_vocab_size: of the model that answers and of the one that guesses.
        context_length: tokens that a sequence of the draft model may have.

    Raises:
        UsageError: when the vocabularies differ in size.
    """

    def __init__(
        self,
        forward: Callable[[Batch], Array],
        planner: SequencePlanner,
        *,
        vocab_size: int,
        draft_vocab_size: int,
        context_length: int,
        controller: DraftController | None = None,
    ) -> None:
        if vocab_size != draft_vocab_size:
            raise UsageError(vocabulary_mismatch(vocab_size, draft_vocab_size))
        self.controller = controller if controller is not None else DraftController()
        self._forward = forward
        self._planner = planner
        self._context_length = context_length
        self._copies: dict[int, _Copy] = {}
        self._has_read_a_prompt = False

    @property
    def num_free_blocks(self) -> int:
        """Cache blocks of the draft model that no request holds."""
        return self._planner.num_free_blocks

    def propose(self, wanted: Sequence[DraftWanted]) -> Sequence[Draft]:
        prospects = [
            Prospect(id=one.id, kind=KIND, most=max(0, min(one.most, self._context_length - len(one.token_ids))))
            for one in wanted
        ]
        lengths = self.controller.lengths(prospects)
        drafting = [(one, length) for one, length in zip(wanted, lengths, strict=True) if length]
        guesses = self._guess(drafting) if drafting else {}
        return [guesses.get(one.id, NO_DRAFT) for one in wanted]

    def observe(self, outcomes: Sequence[DraftOutcome], *, batch_tokens: int, seconds: float) -> None:
        if self._has_read_a_prompt:
            # Its time is paid once and says nothing about the next step.
            self._has_read_a_prompt = False
            return
        self.controller.observe(outcomes, batch_tokens=batch_tokens, seconds=seconds)

    def forget(self, request: int) -> None:
        copy = self._copies.pop(request, None)
        if copy is not None:
            self._planner.release(copy.sequence)
        self.controller.forget(request)

    def _guess(self, drafting: Sequence[tuple[DraftWanted, int]]) -> dict[int, Draft]:
        """Guess token by token, all requests side by side, each as far as its length."""
        fitting = [(one, length) for one, length in drafting if self._has_room(one, length)]
        missing: dict[int, list[int]] = {}
        for one, _ in fitting:
            copy = self._copies[one.id]
            copy.roll_back_to(one.token_ids)
            missing[one.id] = list(one.token_ids[len(copy.tokens) :])
            self._has_read_a_prompt |= len(missing[one.id]) > 64
        guesses: dict[int, list[int]] = {one.id: [] for one, _ in fitting}
        chances: dict[int, list[Array]] = {one.id: [] for one, _ in fitting}
        going = fitting
        while going:
            copies = [self._copies[one.id] for one, _ in going]
            new_tokens = [missing[one.id] for one, _ in going]
            logits = self._forward(self._planner.plan([copy.sequence for copy in copies], new_tokens))
            for (one, _), copy, tokens, row in zip(going, copies, new_tokens, logits, strict=True):
                copy.tokens += tokens
                token, probabilities = _choose(one.sampler, row, len(guesses[one.id]))
                guesses[one.id].append(token)
                missing[one.id] = [token]
                if probabilities is not None:
                    chances[one.id].append(probabilities)
            going = [(one, length) for one, length in going if len(guesses[one.id]) < length]
        return {
            request: Draft(
                token_ids=tuple(tokens), probabilities=np.stack(chances[request]) if chances[request] else None
            )
            for request, tokens in guesses.items()
        }

    def _has_room(self, one: DraftWanted, length: int) -> bool:
        """Take the blocks that known tokens and guesses need; False where the cache is full."""
        copy = self._copies.setdefault(one.id, _Copy())
        try:
            self._planner.grow(copy.sequence, len(one.token_ids) + length)
        except ResourceError:
            return False
        return True


def vocabulary_mismatch(vocab_size: int, draft_vocab_size: int) -> str:
    """What is said of a draft model with another number of tokens."""
    return (
        f"the draft model has {draft_vocab_size} tokens and the model {vocab_size}; their ids must mean the same: "
        "choose a smaller model of the same family"
    )


def _choose(sampler: Sampler, logits: Array, place: int) -> tuple[int, Array | None]:
    """A guess by the draft model's logits (vocab,), and the probabilities it was drawn by, None for a greedy one."""
    rule = sampler.guess_rule()
    if rule.temperature == 0.0 or sampler.options.logprobs is not None:
        return int(kernels.sample(logits[None], [replace(rule, temperature=0.0)])[0]), None
    # Numbers of their own: guesses must not depend on those that will judge them.
    draws = replace(rule, seed=sampler.random_word(GUESS) >> 1, position=place)
    tokens, shares = kept_probabilities(logits, draws)
    probabilities = np.zeros(len(logits), np.float32)
    probabilities[tokens] = shares
    return int(kernels.sample(logits[None], [draws])[0]), probabilities
