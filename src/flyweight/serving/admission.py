"""Who may stand in the queue before an engine, who leaves it next, and when those who are refused should come again.

Bounds: prompts and tokens that wait, prompts and tokens of one key, and the time that a prompt would have to wait by
the rate at which the engine has served others. It is called from the event loop only, and knows clocks only as numbers
that it is given.
"""

from collections import Counter
from dataclasses import dataclass

from flyweight.serving.api_errors import ApiError
from flyweight.serving.fair_queue import FairQueue
from flyweight.serving.limits import ServerLimits
from flyweight.serving.service_rate import ServiceRate

# Waiting requests that the engine holds when it cannot begin more, so that it need not wait for the event loop.
LOOKAHEAD = 2
MEAN_OVER = 32  # answers over which the mean length fades
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 600.0


@dataclass(kw_only=True, slots=True, eq=False)
class Ticket:
    """One prompt's place in the queue.

    Attributes:
        owner: the name of its API key.
        prompt_tokens: of the prompt.
        max_tokens: of all its answers together, at most.
        samples: answers, each of which takes a place in the engine.
        priority: smaller goes first, among prompts of the same owner.
        queued_at, released_at: when it entered and left the queue; seconds of ``time.perf_counter``.
    """

    owner: str
    prompt_tokens: int
    max_tokens: int
    samples: int = 1
    priority: int = 0
    queued_at: float = 0.0
    released_at: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.max_tokens


class Admission:
    """The queue before one engine.

    Args:
        max_sequences: answers that the engine runs at once.
    """

    def __init__(self, limits: ServerLimits, *, max_sequences: int) -> None:
        self._limits = limits
        self._max_sequences = max_sequences
        self._queue: FairQueue[Ticket] = FairQueue()
        self._queued_tokens = 0
        self._open: Counter[str] = Counter()  # prompts of each owner, waiting and running
        self._open_tokens: Counter[str] = Counter()
        self._running = 0  # answers released and not ended
        self._mean_answer = 0.0
        self._is_closed = False
        self.rate = ServiceRate()

    @property
    def queued(self) -> int:
        """Prompts that wait."""
        return len(self._queue)

    @property
    def queued_by_owner(self) -> dict[str, int]:
        """Whose prompts wait."""
        return self._queue.waiting()

    @property
    def running(self) -> int:
        """Answers before the engine."""
        return self._running

    @property
    def has_room(self) -> bool:
        """Whether a small request would be taken now."""
        return not self._is_closed and len(self._queue) < self._limits.queued_requests

    def close(self) -> None:
        """Take no more: the server shuts down, or the model is being replaced."""
        self._is_closed = True

    def offer(self, tickets: list[Ticket], now: float) -> None:
        """Put a request's prompts into the queue, all or none.

        Raises:
            ApiError: 429 when the key has too much open, 503 when the queue is full; with the time after which it is
                worth trying again.
        """
        self._check(tickets)
        for ticket in tickets:
            ticket.queued_at = now
            self._queue.push(ticket.owner, ticket, priority=ticket.priority)
            self._queued_tokens += ticket.prompt_tokens
            self._open[ticket.owner] += 1
            self._open_tokens[ticket.owner] += ticket.tokens

    def release(self, waiting_in_engine: int, now: float) -> list[Ticket]:
        """The tickets that the engine should get now; ``waiting_in_engine`` are answers that it has not begun."""
        released: list[Ticket] = []
        while len(self._queue) and self._has_place(waiting_in_engine):
            ticket = self._queue.pop()
            if ticket is None:
                break
            ticket.released_at = now
            self._queued_tokens -= ticket.prompt_tokens
            self._running += ticket.samples
            self._queue.serve(ticket.owner, ticket.prompt_tokens)
            released.append(ticket)
        return released

    def serve(self, ticket: Ticket, tokens: int, now: float) -> None:
        """Count tokens of answers that the engine has made."""
        self._queue.serve(ticket.owner, tokens)
        self.rate.count(tokens, now)

    def begin(self, ticket: Ticket, now: float) -> None:
        """Count a prompt that has been computed."""
        self.rate.count(ticket.prompt_tokens, now)

    def end_answer(self, ticket: Ticket) -> None:
        """One answer of a released ticket has ended."""
        self._running -= 1

    def end(self, ticket: Ticket, answer_tokens: int) -> None:
        """The last answer of a released ticket has ended; together they had so many tokens."""
        self._queue.end(ticket.owner)
        self._give_back(ticket)
        self._mean_answer += (answer_tokens - self._mean_answer) / MEAN_OVER

    def withdraw(self, ticket: Ticket) -> bool:
        """Take a ticket out of the queue; False when it has left it already."""
        if not self._queue.remove(ticket.owner, ticket):
            return False
        self._queued_tokens -= ticket.prompt_tokens
        self._give_back(ticket)
        return True

    def retry_after(self) -> float:
        """Seconds after which half of what waits now will have been served, by the measured rate."""
        return self._seconds_for(self._queued_work / 2)

    @property
    def _queued_work(self) -> float:
        """Tokens of the prompts that wait, and of the answers that they will probably get."""
        return self._queued_tokens + len(self._queue) * self._mean_answer

    def _give_back(self, ticket: Ticket) -> None:
        self._open[ticket.owner] -= 1
        self._open_tokens[ticket.owner] -= ticket.tokens
        if not self._open[ticket.owner]:
            del self._open[ticket.owner], self._open_tokens[ticket.owner]

    def _has_place(self, waiting_in_engine: int) -> bool:
        """A place, or one of the few that wait in the engine so that it can go on without asking."""
        return self._running < self._max_sequences + LOOKAHEAD and waiting_in_engine < LOOKAHEAD

    def _check(self, tickets: list[Ticket]) -> None:
        limits, owner = self._limits, tickets[0].owner
        if self._is_closed:
            raise ApiError(
                503, "the server is shutting down; ask another one, or again later", code="draining", retry_after=5.0
            )
        if self._open[owner] + len(tickets) > limits.requests_per_key:
            raise self._too_much_of_key(f"{self._open[owner]} of {limits.requests_per_key} requests")
        wanted = sum(ticket.tokens for ticket in tickets)
        if self._open_tokens[owner] and self._open_tokens[owner] + wanted > limits.tokens_per_key:
            raise self._too_much_of_key(f"{self._open_tokens[owner]} of {limits.tokens_per_key} tokens")
        prompt_tokens = sum(ticket.prompt_tokens for ticket in tickets)
        if len(self._queue) + len(tickets) > limits.queued_requests:
            raise self._full(f"{len(self._queue)} requests wait and {limits.queued_requests} may")
        if self._queued_tokens and self._queued_tokens + prompt_tokens > limits.queued_tokens:
            raise self._full(f"requests of {self._queued_tokens} tokens wait and {limits.queued_tokens} may")
        wait = self._seconds_for(self._queued_work) if self._queue and self.rate.is_known else 0.0
        if wait > limits.queue_seconds:
            raise self._full(f"it would wait about {wait:.0f} s and {limits.queue_seconds:.0f} s are allowed")

    def _too_much_of_key(self, what: str) -> ApiError:
        return ApiError(
            429,
            f"this API key has {what} open; wait for some to end",
            code="rate_limit_exceeded",
            retry_after=self.retry_after(),
        )

    def _full(self, what: str) -> ApiError:
        return ApiError(
            503, f"the queue is full: {what}; try again later", code="queue_full", retry_after=self.retry_after()
        )

    def _seconds_for(self, tokens: float) -> float:
        if not self.rate.is_known:
            return SHORTEST_WAIT
        return min(max(tokens / self.rate.tokens_per_second, SHORTEST_WAIT), LONGEST_WAIT)
