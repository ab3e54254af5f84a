"""The way into one engine: the admission queue, and what is begun with a prompt that may leave it.

Answers and embeddings come in by the same way, under the same bounds. It belongs to the event loop, and knows neither
prompts nor the engine.
"""

import time
from collections.abc import Callable, Mapping

from flyweight.serving.admission import Admission, Ticket
from flyweight.serving.api_errors import ApiError
from flyweight.serving.limits import ServerLimits
from flyweight.serving.observation import Observers, Outcome, Rejected, tell


class Entrance:
    """Before the engine of one model.

    Args:
        model: the served name.
        max_sequences: answers that the engine runs at once.

    Attributes:
        admission: who may wait, and who is next.
        waiting_in_engine: answers that the engine has taken and not begun, after its last step.
    """

    def __init__(self, limits: ServerLimits, *, model: str, max_sequences: int, observers: Observers) -> None:
        self.admission = Admission(limits, max_sequences=max_sequences)
        self.waiting_in_engine = 0
        self._limits = limits
        self._model = model
        self._observers = observers
        self._begin: dict[Ticket, Callable[[], None]] = {}  # of all that are open

    def refuse_early(self, request_id: str, owner: str, *, preparing: int) -> None:
        """Templates and tokenizers cost too: what would be refused anyway is refused before them.

        Args:
            preparing: requests that are on their way to the queue.

        Raises:
            ApiError: 429 or 503.
        """
        if preparing >= self._limits.queued_requests:
            error = ApiError(503, "the queue is full", code="queue_full", retry_after=1.0)
            raise self._rejected(request_id, owner, error)
        if not self.admission.has_room:
            self.offer(request_id, owner, {Ticket(owner=owner, prompt_tokens=1, max_tokens=1): _nothing})

    def offer(self, request_id: str, owner: str, begin: Mapping[Ticket, Callable[[], None]]) -> None:
        """Put a request's prompts into the queue, all or none; each is begun when it may leave.

        Raises:
            ApiError: 429 or 503, of which the observers are told.
        """
        try:
            self.admission.offer(list(begin), time.perf_counter())
        except ApiError as error:
            raise self._rejected(request_id, owner, error) from None
        self._begin.update(begin)

    def release(self) -> None:
        """Begin what the engine has room for."""
        for ticket in self.admission.release(self.waiting_in_engine, time.perf_counter()):
            self._begin[ticket]()

    def withdraw(self, ticket: Ticket) -> bool:
        """Take a prompt out of the queue; False when it has left it already."""
        return self.admission.withdraw(ticket)

    def close(self, ticket: Ticket, answer_tokens: int) -> None:
        """A prompt is done with, or was withdrawn; its answers had so many tokens."""
        if ticket.released_at:
            self.admission.end(ticket, answer_tokens)
        del self._begin[ticket]
        if not self._begin:
            self.admission.rate.pause()

    def lateness(self, ticket: Ticket, now: float) -> ApiError | None:
        """What is told of a prompt that has waited, or an answer that has taken, longer than it may."""
        age = now - ticket.queued_at
        if not ticket.released_at and age > self._limits.queue_seconds:
            return ApiError(
                503,
                f"the request waited longer than {self._limits.queue_seconds:g} s; try again later",
                code="queue_timeout",
                retry_after=self.admission.retry_after(),
            )
        if age > self._limits.answer_seconds:
            return ApiError(
                503,
                f"the answer took longer than {self._limits.answer_seconds:g} s; ask for fewer tokens",
                code="timeout",
            )
        return None

    def _rejected(self, request_id: str, owner: str, error: ApiError) -> ApiError:
        event = Rejected(
            request_id=request_id,
            model=self._model,
            owner=owner,
            reason=error.code or "",
            retry_after=float(error.headers.get("Retry-After", 0)),
        )
        tell(self._observers, lambda one: one.on_rejected(event))
        return error


def shutdown_error() -> ApiError:
    """What those are told who are still open when the server ends."""
    return ApiError(503, "the server shut down before the answer was complete", code="shutdown")


def outcome_of(error: ApiError) -> Outcome:
    """How an answer that was ended with this error ended."""
    return "drained" if error.code == "shutdown" else "timeout" if "timeout" in (error.code or "") else "error"


def _nothing() -> None:
    pass
