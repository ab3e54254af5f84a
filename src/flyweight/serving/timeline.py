"""Where the time of a request went: a bounded memory of the newest requests, filled while they run.

Counts, times and ids only; no word of a prompt or an answer comes here. Everything runs in the event loop's thread,
and a step costs a few additions for each answer in it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flyweight.serving.observation import AnswerName, Finished, GrammarCompiled, Rejected, StepTaken, Submitted

MOST_REQUESTS = 1024
MOST_CHUNKS = 128
MOST_PREEMPTIONS = 32


@dataclass(kw_only=True, slots=True)
class _Answer:
    """One answer while it is remembered. ``running_since`` is when its first step began; 0 before."""

    prompt_tokens: int
    queued_at: float
    released_at: float = 0.0
    running_since: float = 0.0
    first_token: float = 0.0
    ended_at: float = 0.0
    answer_tokens: int = 0
    cached_tokens: int = 0
    outcome: str | None = None
    chunks: list[dict[str, Any]] = field(default_factory=list)
    num_chunks: int = 0
    preempted_at: list[int] = field(default_factory=list)
    preemptions: int = 0
    decode_steps: int = 0
    decode_seconds: float = 0.0
    decode_batch: int = 0
    smallest_batch: int = 0
    largest_batch: int = 0
    proposed: int = 0
    accepted: int = 0


@dataclass(kw_only=True, slots=True)
class _Request:
    id: str
    owner: str
    model: str
    queued_at: float
    created: float
    answers: dict[tuple[int, int], _Answer]
    num_open: int

    @property
    def running_since(self) -> float:
        """When its first answer began; 0 before."""
        return min((one.running_since for one in self.answers.values() if one.running_since), default=0.0)

    def ran_until(self, now: float) -> float:
        return now if self.num_open else max(one.ended_at for one in self.answers.values())


class Timelines:
    """Remembers the newest requests of one server.

    Args:
        clock, wall_clock: seconds as in the events, and since 1970.
        most_requests: remembered; those that have ended longest ago are forgotten first.
    """

    def __init__(
        self, *, clock: Callable[[], float], wall_clock: Callable[[], float], most_requests: int = MOST_REQUESTS
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._most = most_requests
        self._requests: dict[str, _Request] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    def on_submitted(self, event: Submitted) -> None:
        answers = {
            (prompt, sample): _Answer(prompt_tokens=tokens, queued_at=event.at)
            for prompt, tokens in enumerate(event.prompt_tokens)
            for sample in range(event.samples)
        }
        self._ended.pop(event.request_id, None)
        self._requests[event.request_id] = _Request(
            id=event.request_id,
            owner=event.owner,
            model=event.model,
            queued_at=event.at,
            created=self._wall_clock() - (self._clock() - event.at),
            answers=answers,
            num_open=len(answers),
        )

    def on_compiled(self, event: GrammarCompiled) -> None:
        """Grammars are compiled before a request has a timeline."""

    def on_rejected(self, event: Rejected) -> None:
        """Those that were never queued have no timeline."""

    def on_step(self, event: StepTaken) -> None:
        answered = dict(event.answered)
        seconds, batch_size = event.ended - event.began, len(event.chunks)
        for name in event.preempted:
            answer = self._answer(name)
            if answer is not None:
                answer.preemptions += 1
                if len(answer.preempted_at) < MOST_PREEMPTIONS:
                    answer.preempted_at.append(event.number)
        for chunk in event.chunks:
            answer = self._answer(chunk.name)
            if answer is None:
                continue
            tokens = answered.get(chunk.name, 0)
            if not answer.running_since:
                answer.running_since = event.began
                answer.cached_tokens = min(chunk.start, answer.prompt_tokens)
            if chunk.drafts:
                answer.proposed += chunk.drafts
                answer.accepted += max(0, tokens - 1)
            if chunk.count - chunk.drafts > 1 or not answer.first_token:
                answer.num_chunks += 1
                if len(answer.chunks) < MOST_CHUNKS:
                    answer.chunks.append(
                        {
                            "step": event.number,
                            "at_seconds": event.began - answer.queued_at,
                            "start": chunk.start,
                            "tokens": chunk.count,
                            "batch_size": batch_size,
                            "seconds": seconds,
                        }
                    )
            else:
                answer.smallest_batch = min(answer.smallest_batch or batch_size, batch_size)
                answer.largest_batch = max(answer.largest_batch, batch_size)
                answer.decode_steps += 1
                answer.decode_seconds += seconds
                answer.decode_batch += batch_size
            if tokens:
                answer.first_token = answer.first_token or event.ended
                answer.answer_tokens += tokens

    def on_finished(self, event: Finished) -> None:
        request = self._requests.get(event.name.request_id)
        answer = self._answer(event.name)
        if request is None or answer is None or answer.outcome is not None:
            return
        answer.outcome = event.outcome
        answer.released_at = event.released_at
        answer.ended_at = event.ended_at
        if event.record is not None:
            answer.answer_tokens = event.record.answer_tokens
            if event.record.began:
                answer.running_since = event.record.began
                answer.cached_tokens = event.record.cached_tokens
            answer.first_token = event.record.first_token
        request.num_open -= 1
        if request.num_open == 0:
            self._ended[request.id] = None
            while len(self._ended) > self._most:
                del self._requests[self._ended.popitem(last=False)[0]]

    def find(self, request_id: str, *, owner: str) -> dict[str, Any] | None:
        """The timeline of a request, as JSON; None when it is unknown, forgotten or another owner's."""
        request = self._requests.get(request_id)
        if request is None or request.owner != owner:
            return None
        now = self._clock()
        return {
            "object": "request.timeline",
            "id": request.id,
            "model": request.model,
            "created": request.created,
            "answers": [
                {"prompt": prompt, "sample": sample, **self._tell(request, answer, now)}
                for (prompt, sample), answer in request.answers.items()
            ],
        }

    def _answer(self, name: AnswerName) -> _Answer | None:
        request = self._requests.get(name.request_id)
        return None if request is None else request.answers.get((name.prompt, name.sample))

    def _tell(self, request: _Request, answer: _Answer, now: float) -> dict[str, Any]:
        until = answer.ended_at or now
        began, first = answer.running_since, answer.first_token
        return {
            "state": "running"
            if began and answer.outcome is None
            else "waiting"
            if answer.outcome is None
            else "ended",
            "outcome": answer.outcome,
            "queue_seconds": (began or until) - answer.queued_at,
            "admission_seconds": answer.released_at - answer.queued_at if answer.released_at else None,
            "prefill_seconds": ((first or until) - began) if began else 0.0,
            "decode_seconds": (until - first) if first else 0.0,
            "total_seconds": until - answer.queued_at,
            "prompt_tokens": answer.prompt_tokens,
            "cached_tokens": answer.cached_tokens,
            "answer_tokens": answer.answer_tokens,
            "chunks": answer.chunks,
            "chunks_not_shown": answer.num_chunks - len(answer.chunks),
            "decode": {
                "steps": answer.decode_steps,
                "step_seconds": answer.decode_seconds,
                "mean_batch_size": answer.decode_batch / answer.decode_steps if answer.decode_steps else 0.0,
                "smallest_batch_size": answer.smallest_batch,
                "largest_batch_size": answer.largest_batch,
            },
            "preemptions": answer.preemptions,
            "preempted_before_steps": answer.preempted_at,
            "speculation": {"proposed": answer.proposed, "accepted": answer.accepted},
            "waited_for": self._waited_for(request, answer.queued_at, began or until, now),
        }

    def _waited_for(self, request: _Request, start: float, stop: float, now: float) -> dict[str, Any]:
        """Who ran on the same model meanwhile: ids of the same owner's requests, of others how many."""
        own, others = [], 0
        for other in self._others(request):
            ran_from = other.running_since
            if ran_from and ran_from < stop and other.ran_until(now) > start:
                if other.owner == request.owner:
                    own.append(other.id)
                else:
                    others += 1
        return {"own": own, "others": others}

    def _others(self, request: _Request) -> Iterator[_Request]:
        return (one for one in self._requests.values() if one is not request and one.model == request.model)
