"""What the server tells about its work: value objects, and who may listen to them.

Metrics, timelines and logs are observers; those who do the work know none of them. All calls come from the event
loop's thread, in the order in which things happened. Times are seconds of ``time.perf_counter``.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flyweight.engine.metrics import EngineMetrics
from flyweight.engine.request import RequestRecord

Outcome = Literal["stop", "length", "error", "abort", "timeout", "drained"]
"""How an answer ended: by itself, at its length, by a fault, given up by the client, or ended by the server because
its time was over or because the server shuts down."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerName:
    """One answer: to which HTTP request, to which of its prompts, and which of several to that prompt."""

    request_id: str
    prompt: int
    sample: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """A request was understood and stands in the queue.

    Attributes:
        request_id: the server's name for it, in every log line and in the ``X-Request-Id`` header.
        model: the served name.
        owner: the name of the API key, empty without keys. Never the key.
        prompt_tokens: of each prompt.
        samples: answers to each prompt.
        max_tokens: of each prompt's answers at most.
        at: when it was put into the queue.
        streams: whether the client reads while the answer is made.
    """

    request_id: str
    model: str
    owner: str
    prompt_tokens: tuple[int, ...]
    samples: int
    max_tokens: tuple[int, ...]
    at: float
    streams: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A request was refused before it stood in the queue; ``reason`` is one of admission's, for metrics."""

    request_id: str
    model: str
    owner: str
    reason: str
    retry_after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GrammarCompiled:
    """A request's grammar was compiled, found among those that were, or refused; ``seconds`` are those that the request
    waited for it."""

    request_id: str
    model: str
    seconds: float
    is_refused: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkComputed:
    """What a step computed of one answer: tokens ``start`` to ``start + count``, the last ``drafts`` of them guessed;
    ``found`` blocks came from the prefix cache before."""

    name: AnswerName
    start: int
    count: int
    drafts: int
    found: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTaken:
    """One step of a model's engine.

    Attributes:
        number: of the step, from 1.
        began, ended: its time.
        chunks: what it computed.
        answered: how many tokens it brought to which answers.
        admitted, preempted: answers that began in it, and that lost their blocks before it.
        waiting: answers that wait inside the engine after it; those still in the admission queue are not counted.
        queued: prompts in the admission queue when the news arrived.
        metrics: the engine's counters after it.
    """

    model: str
    number: int
    began: float
    ended: float
    chunks: tuple[ChunkComputed, ...]
    answered: tuple[tuple[AnswerName, int], ...]
    admitted: tuple[AnswerName, ...]
    preempted: tuple[AnswerName, ...]
    waiting: int
    queued: int
    metrics: EngineMetrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """An answer has ended.

    Attributes:
        queued_at, released_at: when its prompt entered the admission queue and left it; ``released_at`` is 0 for one
            that ended in the queue.
        ended_at: when it ended.
        record: what the engine says of it; None when it never reached the engine.
        message: what the client was told, for outcomes other than stop and length.
        is_embedding: whether it is a text that became a vector, which no step of the engine tells of.
    """

    name: AnswerName
    model: str
    owner: str
    outcome: Outcome
    queued_at: float
    released_at: float
    ended_at: float
    max_tokens: int
    samples: int
    record: RequestRecord | None
    message: str = ""
    is_embedding: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpEnded:
    """An HTTP request has ended.

    Attributes:
        route: a path as the server declares it, never the client's own.
        status: of the answer; 499 where the client left before one began.
        traceparent: the header of that name, as it was sent.
    """

    request_id: str
    method: str
    route: str
    status: int
    began: float
    ended: float
    traceparent: str = ""


class Observer(Protocol):
    """Who listens. It must be quick: it runs between the events of all requests. What it raises is logged, and does
    not reach those who work."""

    def on_submitted(self, event: Submitted) -> None: ...

    def on_rejected(self, event: Rejected) -> None: ...

    def on_compiled(self, event: GrammarCompiled) -> None: ...

    def on_step(self, event: StepTaken) -> None: ...

    def on_finished(self, event: Finished) -> None: ...


Observers = Sequence[Observer]

log = logging.getLogger("flyweight")


def tell(observers: Observers, call: Callable[[Observer], Any]) -> None:
    """Tell each of them; one that fails is logged and keeps nobody from hearing."""
    for observer in observers:
        try:
            call(observer)
        except Exception:
            log.exception("an observer failed")
