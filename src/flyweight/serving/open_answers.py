"""The answers of one model that are open: from a prompt's offer to the queue to the end of its last answer.

What the engine's thread delivers is given to those who read, and told to observers. All of it belongs to the event
loop; prompts come here as token ids, ready for the engine.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from flyweight.engine.language_model import LanguageModel
from flyweight.serving.admission import Ticket
from flyweight.serving.answers import Answers
from flyweight.serving.api_errors import ApiError
from flyweight.serving.asks import Ask
from flyweight.serving.engine_worker import EngineWorker
from flyweight.serving.entrance import Entrance, outcome_of
from flyweight.serving.jobs import Delivery, Job, News
from flyweight.serving.observation import Finished, Observer, Observers, Outcome, StepTaken, Submitted, tell
from flyweight.serving.pieces import piece, scored_only
from flyweight.serving.prompts import Prepared, refusal


@dataclass(kw_only=True, slots=True, eq=False)
class _Open:
    """A job from its offer to the end of its last answer."""

    job: Job
    ticket: Ticket
    answers: Answers
    first_index: int
    max_tokens: int
    is_scored_only: bool
    left: int
    answer_tokens: int = 0
    has_begun: bool = False
    ending: Outcome | None = None  # why it was given up from here


class OpenAnswers:
    """Those of one model, whose engine ``worker`` runs behind ``entrance``."""

    def __init__(
        self, worker: EngineWorker, entrance: Entrance, *, model: LanguageModel, name: str, observers: Observers
    ) -> None:
        self._worker = worker
        self._entrance = entrance
        self._admission = entrance.admission
        self._model = model
        self._name = name
        self._observers = observers
        self._open: dict[Job, _Open] = {}

    def __len__(self) -> int:
        return len(self._open)

    def submit(self, ask: Ask, prepared: Sequence[Prepared]) -> Answers:
        """Put a request into the queue; its answers are read from what is returned.

        Raises:
            ApiError: 429 or 503 when it cannot be taken now.
        """
        tickets = [
            Ticket(
                owner=ask.owner.name,
                prompt_tokens=len(one.ids),
                max_tokens=one.max_tokens * ask.samples,
                samples=ask.samples,
                priority=ask.priority,
            )
            for one in prepared
        ]
        jobs = [Job(request_id=ask.request_id, prompt=place, asked=one.asked) for place, one in enumerate(prepared)]
        begin = {ticket: partial(self._worker.submit, job) for job, ticket in zip(jobs, tickets, strict=True)}
        self._entrance.offer(ask.request_id, ask.owner.name, begin)
        answers = Answers(
            request_id=ask.request_id,
            prompts=[one.ids for one in prepared],
            prompt_texts=[one.text for one in prepared],
            samples=ask.samples,
            give_up=lambda: self._give_up_all(jobs, "abort"),
        )
        for place, (job, ticket, one) in enumerate(zip(jobs, tickets, prepared, strict=True)):
            self._open[job] = _Open(
                job=job,
                ticket=ticket,
                answers=answers,
                first_index=place * ask.samples,
                max_tokens=one.max_tokens,
                is_scored_only=ask.max_tokens == 0,
                left=ask.samples,
            )
        submitted = Submitted(
            request_id=ask.request_id,
            model=self._name,
            owner=ask.owner.name,
            prompt_tokens=tuple(len(one.ids) for one in prepared),
            samples=ask.samples,
            max_tokens=tuple(one.max_tokens for one in prepared),
            at=tickets[0].queued_at,
            streams=ask.streams,
        )
        tell(self._observers, lambda one: one.on_submitted(submitted))
        self._entrance.release()
        return answers

    def receive(self, delivery: Delivery) -> None:
        """Pass on what the engine has to tell."""
        now = time.perf_counter()
        for step in delivery.steps:
            self._entrance.waiting_in_engine = step.waiting
            told = replace(step, queued=self._admission.queued)
            tell(self._observers, partial(_tell_step, told))
        for news in delivery.news:
            one = self._open.get(news.job)
            if one is not None:
                self._read(one, news, now)
        self._entrance.release()

    def _read(self, one: _Open, news: News, now: float) -> None:
        if not one.has_begun and news.token_ids:
            one.has_begun = True
            self._admission.begin(one.ticket, now)
        if news.token_ids:
            one.answer_tokens += len(news.token_ids)
            self._admission.serve(one.ticket, len(news.token_ids), now)
        index = one.first_index + news.sample
        if news.is_last:
            self._end_answer(one, news, now)
        if news.error is not None:
            one.answers.fail(self._told(news))
        elif news.token_ids or news.completion is not None:
            one.answers.add(scored_only(index, news) if one.is_scored_only else piece(index, news))

    def _told(self, news: News) -> ApiError:
        assert news.error is not None
        return refusal(news.error, self._model)

    def _end_answer(self, one: _Open, news: News, now: float) -> None:
        if one.ticket.released_at:
            self._admission.end_answer(one.ticket)
        one.left -= 1
        outcome: Outcome = "error"
        if news.completion is not None:
            outcome = news.completion.finish_reason
        elif news.error is None:
            outcome = one.ending or "abort"
        finished = Finished(
            name=one.job.name(news.sample),
            model=self._name,
            owner=one.ticket.owner,
            outcome=outcome,
            queued_at=one.ticket.queued_at,
            released_at=one.ticket.released_at,
            ended_at=now,
            max_tokens=one.max_tokens,
            samples=one.answers.samples,
            record=news.record,
            message="" if news.error is None else str(news.error),
        )
        tell(self._observers, lambda observer: observer.on_finished(finished))
        if not one.left:
            self._close(one)

    def _close(self, one: _Open) -> None:
        del self._open[one.job]
        self._entrance.close(one.ticket, one.answer_tokens)

    # Giving up

    def end_late(self, now: float) -> None:
        """End what has waited or run for too long."""
        for one in list(self._open.values()):
            if one.ending is None and (error := self._entrance.lateness(one.ticket, now)) is not None:
                self._give_up(one, outcome_of(error), error)

    def end_all(self, error: ApiError) -> None:
        """End everything with this error."""
        for one in list(self._open.values()):
            self._give_up(one, outcome_of(error), error)

    def _give_up_all(self, jobs: Sequence[Job], outcome: Outcome) -> None:
        for job in jobs:
            if (one := self._open.get(job)) is not None:
                self._give_up(one, outcome)
        self._entrance.release()

    def _give_up(self, one: _Open, outcome: Outcome, error: ApiError | None = None) -> None:
        """End a job from here; its reader gets ``error``, if it still reads."""
        one.ending = one.ending or outcome
        if self._entrance.withdraw(one.ticket):
            now = time.perf_counter()
            for sample in range(one.left):
                self._end_answer(one, News(job=one.job, sample=sample, is_last=True), now)
        else:
            self._worker.abort(one.job)
        if error is not None:
            one.answers.fail(error)


def _tell_step(step: StepTaken, observer: Observer) -> None:
    observer.on_step(step)
