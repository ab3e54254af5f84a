"""How many tokens to guess: as many as the measured gain says, none where guessing does not pay.

The expected tokens of a step follow from how often guesses of a kind were right, per request; its seconds from the
steps so far. Drafts are chosen for all requests of the step together, since they share its cost. What speculation has
lost against plain decoding, by the same measurements, is kept below a small share of the time: when that is used up
it rests, and plain steps earn the next trial. It knows neither where guesses come from nor what the tokens are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from flyweight.engine.proposer import DraftOutcome
from flyweight.engine.speculation.step_costs import StepCosts


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftLimits:
    """The bounds of speculation.

    Attributes:
        longest: guesses for one request in a step.
        allowed_loss: share of the decoding time that trials may cost where they do not help.
        credit_steps: plain steps' worth of time that may be lost before any was earned.
        least_gain: tokens per second over plain decoding that a draft must promise.
    """

    longest: int = 12
    allowed_loss: float = 0.015
    credit_steps: float = 1.0
    least_gain: float = 1.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Prospect:
    """A request that could get up to ``most`` guesses; those of one ``kind`` are right about equally often."""

    id: int
    kind: str
    most: int


@dataclass(kw_only=True, slots=True)
class _Record:
    """Guesses judged, right ones among them; both fade."""

    judged: float = 0.0
    right: float = 0.0


PRIOR_RIGHT = {"2": 0.3, "3-4": 0.5, "5-9": 0.75, "10+": 0.9}
PRIOR_OTHER = 0.6
PRIOR_WEIGHT = 2.0
KIND_WEIGHT = 4.0
FADING = 0.95
RECOVERY = 0.995


class DraftController:
    """Chooses draft lengths. One for each engine."""

    def __init__(self, limits: DraftLimits | None = None) -> None:
        self.limits = limits if limits is not None else DraftLimits()
        self._costs = StepCosts()
        self._kinds: dict[str, _Record] = {}
        self._requests: dict[tuple[int, str], _Record] = {}
        self._asked: dict[int, Prospect] = {}
        self._decoding = 0
        self._balance = 0.0

    @property
    def balance(self) -> float:
        """Seconds gained over plain decoding, less what counts no more; below 0 trials have cost more than they won."""
        return self._balance

    def lengths(self, prospects: Sequence[Prospect]) -> list[int]:
        """Guesses that each request should get now; all of ``prospects`` decode in the coming step."""
        self._asked = {one.id: one for one in prospects}
        self._decoding = len(prospects)
        lengths = [0] * len(prospects)
        if not self._costs.covers(len(prospects)):
            return lengths  # what a plain step costs comes first
        steps: list[tuple[float, int]] = []
        for place, one in enumerate(prospects):
            likely, rate = 1.0, self._rate(one)
            for _ in range(min(one.most, self.limits.longest)):
                likely *= rate
                steps.append((likely, place))
        steps.sort(key=lambda step: -step[0])
        plain = self._costs.seconds(len(prospects))
        bearable = plain + self._balance + self.limits.credit_steps * plain  # were every guess wrong
        best, best_speed = 0, len(prospects) / plain * self.limits.least_gain
        tokens = float(len(prospects))
        # Beyond what has been measured costs are a guess: feel the way.
        within = 2 * self._costs.largest + 1 - len(prospects)
        for count, (likely, _) in enumerate(steps[: max(0, within)], 1):
            tokens += likely
            seconds = self._costs.seconds(len(prospects) + count)
            if seconds > bearable:
                break
            if tokens / seconds > best_speed:
                best, best_speed = count, tokens / seconds
        for _, place in steps[:best]:
            lengths[place] += 1
        if not best:
            self._recover(prospects)
        return lengths

    def observe(self, outcomes: Sequence[DraftOutcome], *, batch_tokens: int, seconds: float) -> None:
        """Learn from a step: its time, and what became of its drafts."""
        drafted = sum(one.proposed for one in outcomes)
        accepted = sum(one.accepted for one in outcomes)
        for one in outcomes:
            self._judge(one)
        others = batch_tokens - drafted
        if others == self._decoding and self._costs.covers(others):  # else prompts are among them
            plain = self._costs.seconds(others)
            if drafted:
                gain = plain * (1.0 + accepted / others) - seconds
                # A hiccup is not the drafts' fault, and a run of luck is no licence to lose for long.
                self._balance += max(gain, -2.0 * plain)
                self._balance = min(self._balance, self.limits.credit_steps * plain)
            elif self._balance < 0.0:
                self._balance = min(0.0, self._balance + self.limits.allowed_loss * seconds)
        self._costs.add(batch_tokens, seconds)

    def forget(self, request: int) -> None:
        """Drop what was learnt of a request; what was learnt of its kinds stays."""
        for key in [key for key in self._requests if key[0] == request]:
            del self._requests[key]

    def _rate(self, one: Prospect) -> float:
        """How likely the next guess is right, when all before it were."""
        prior = PRIOR_RIGHT.get(one.kind, PRIOR_OTHER)
        kind = self._kinds.get(one.kind, _Record())
        general = (kind.right + PRIOR_WEIGHT * prior) / (kind.judged + PRIOR_WEIGHT)
        own = self._requests.get((one.id, one.kind), _Record())
        return min((own.right + KIND_WEIGHT * general) / (own.judged + KIND_WEIGHT), 0.99)

    def _judge(self, outcome: DraftOutcome) -> None:
        one = self._asked.get(outcome.id)
        if one is None:
            return
        # After the first wrong guess the others were not judged.
        judged = min(outcome.accepted + 1, outcome.proposed)
        for record in (
            self._kinds.setdefault(one.kind, _Record()),
            self._requests.setdefault((one.id, one.kind), _Record()),
        ):
            record.judged = record.judged * FADING + judged
            record.right = record.right * FADING + outcome.accepted

    def _recover(self, prospects: Sequence[Prospect]) -> None:
        """What was learnt long ago counts less: guesses that were poor get another trial now and then."""
        self._costs.relax(len(prospects))
        for one in prospects:
            if one.most:
                for record in (self._kinds.get(one.kind), self._requests.get((one.id, one.kind))):
                    if record is not None:
                        record.judged *= RECOVERY
                        record.right *= RECOVERY
