"""What crosses the border between the event loop and the thread of an engine: jobs in, deliveries out.

Both sides share these objects; each says which thread may touch what.
"""

from dataclasses import dataclass, field

from flyweight.engine.generation import Asked, Completion
from flyweight.engine.request import RequestRecord
from flyweight.engine.sampling import TokenLogProbability
from flyweight.errors import FlyweightError
from flyweight.serving.observation import AnswerName, StepTaken


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """One prompt and the answers that are wanted to it. The event loop makes it; what ``asked`` holds belongs to the
    engine's thread as soon as it is submitted."""

    request_id: str
    prompt: int
    asked: Asked

    def name(self, sample: int) -> AnswerName:
        return AnswerName(request_id=self.request_id, prompt=self.prompt, sample=sample)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class News:
    """What one step brought to one answer. The last of an answer has a ``completion``, an ``error``, or is given up
    (``record`` alone).

    Attributes:
        text: what follows the text so far; it may be empty.
        token_ids, log_probabilities: of the new tokens.
        prompt_log_probabilities: of the prompt's tokens behind its first, with the first news, where they are wanted.
        record: what the engine says of an answer that has ended; None when it was refused.
    """

    job: Job
    sample: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    log_probabilities: tuple[TokenLogProbability, ...] = ()
    prompt_log_probabilities: tuple[TokenLogProbability, ...] = ()
    completion: Completion | None = None
    error: FlyweightError | None = None
    record: RequestRecord | None = None
    is_last: bool = False


@dataclass(kw_only=True, slots=True)
class Delivery:
    """All that an engine has to tell since the last one. The engine's thread fills it, then the loop owns it."""

    news: list[News] = field(default_factory=list)
    steps: list[StepTaken] = field(default_factory=list)
