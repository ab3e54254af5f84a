"""One model that is served: from a route's ask to answers, over the queue, the engine's thread and back.

All methods belong to the event loop. Rendering and tokenizing run on a pool of threads; the engine runs on its own.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from flyweight.engine.engine import Engine
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.metrics import EngineMetrics
from flyweight.serving.admission import Admission, Ticket
from flyweight.serving.answers import Answers
from flyweight.serving.api_errors import ApiError
from flyweight.serving.asks import Ask, Prompt
from flyweight.serving.engine_worker import EngineWorker
from flyweight.serving.jobs import Delivery, Job, News
from flyweight.serving.limits import ServerLimits
from flyweight.serving.model_card import ModelCard, read_card
from flyweight.serving.observation import Finished, Observer, Observers, Outcome, Rejected, Submitted
from flyweight.serving.pieces import piece, scored_only
from flyweight.serving.prompts import Prepared, compile_constraint, encode, prepare, refusal
from flyweight.serving.token_text import TokenText
from flyweight.serving.tools.registry import tool_format_for

T = TypeVar("T")

SWEEP_SECONDS = 0.25
DRAIN_SECONDS = 0.02  # between two looks at what is open
GRAMMAR_THREADS = 2

log = logging.getLogger("flyweight")


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


class ModelService:
    """Serves one model under one name.

    Args:
        pool: threads for templates and tokenizers, shared by all services.
        observers: are told of everything.

    Attributes:
        card: what /v1/models says.
        preparing: requests that are not in the queue yet; ``drain`` waits for them.
        tokens: as clients see them.
        tool_format: how the model calls functions; None where that is not known.
    """

    def __init__(
        self, model: LanguageModel, *, name: str, limits: ServerLimits, pool: Executor, observers: Observers = ()
    ) -> None:
        self.model = model
        self.name = name
        self.limits = limits
        self.card: ModelCard = read_card(model, name)
        template = model.tokenizer.chat_template if model.has_chat_template else None
        self.tool_format = None if template is None else tool_format_for(template)
        self.tokens = TokenText(model)
        self._pool = pool
        self._observers = observers
        self._loop = asyncio.get_running_loop()
        self._worker = EngineWorker(model, name=name, deliver=self._hand_over)
        self._admission = Admission(limits, max_sequences=self._worker.max_sequences)
        # Grammars wait for one another, never texts for grammars.
        self._grammar_pool = ThreadPoolExecutor(GRAMMAR_THREADS, thread_name_prefix=f"grammars {name}")
        self._open: dict[Job, _Open] = {}
        self._of_ticket: dict[Ticket, _Open] = {}
        self.preparing = 0
        self._successor: ModelService | None = None
        self._is_draining = False
        self._waiting_in_engine = 0
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work."""
        self._worker.start()
        self._sweeper = self._loop.create_task(self._sweep())

    # What routes use

    async def answer(self, ask: Ask) -> Answers:
        """Take a request; its answers are read from what is returned.

        Raises:
            ApiError: 400 when it cannot be carried out, 429 or 503 when it cannot be taken now; nothing was computed.
        """
        if self._successor is not None:
            return await self._successor.answer(ask)
        count = len(ask.prompts) * ask.samples
        if count > self.limits.answers:
            raise ApiError(
                400,
                f"{len(ask.prompts)} prompts with n={ask.samples} ask for {count} answers and {self.limits.answers} "
                "are allowed; ask for fewer at once",
                param="n" if ask.samples > 1 else "prompt",
            )
        if ask.max_tokens is not None and ask.max_tokens > self.limits.answer_tokens:
            raise ApiError(
                400,
                f"max_tokens={ask.max_tokens} is too large; this server allows {self.limits.answer_tokens}",
                param="max_tokens",
            )
        self._refuse_early(ask)
        self.preparing += 1
        try:
            constraint = None
            if ask.constraint is not None:
                constraint = await self._loop.run_in_executor(
                    self._grammar_pool, compile_constraint, self.model, ask.constraint
                )
            prepared = await self.compute(
                partial(
                    prepare,
                    self.model,
                    ask,
                    self.limits,
                    engine_priority=not ask.owner.name,
                    constraint=constraint,
                )
            )
        finally:
            self.preparing -= 1
        if self._successor is not None:  # it came while the prompt was made
            return await self._successor.answer(ask)
        return self._submit(ask, prepared)

    async def encode(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        """A prompt's text, where it has one, and its token ids.

        Raises:
            ApiError: 400 where it cannot be read.
        """
        return await self.compute(partial(encode, self.model, prompt, most_characters=self.limits.tokenized_characters))

    async def compute(self, function: Callable[[], T]) -> T:
        """Run something that takes long, but does not use the engine, off the event loop."""
        return await self._loop.run_in_executor(self._pool, function)

    def check_open(self) -> None:
        """Raise ApiError when the service takes no more work."""
        if self._is_draining and self._successor is None:  # it is replaced, and stopped after all who prepare
            raise ApiError(503, "the server is shutting down", code="draining", retry_after=5.0)

    async def run(self, function: Callable[[Engine], T]) -> T:
        """Run something in the engine's thread between two steps."""
        return await asyncio.wrap_future(self._worker.run(function))

    # What operations use

    def illness(self) -> str | None:
        """Why the engine does not live, or None: it makes progress whenever there is work."""
        if not self._worker.is_alive:
            return self._worker.pulse.fault or "the engine does not run"
        return self._worker.pulse.illness(self.limits.stall_seconds)

    def unreadiness(self) -> str | None:
        """Why new requests should go elsewhere, or None."""
        if self._is_draining:
            return "the server is shutting down"
        if not self._admission.has_room:
            return "the queue is full"
        return self.illness()

    @property
    def metrics(self) -> EngineMetrics:
        """The engine's counters after its last step."""
        return self._worker.metrics

    @property
    def queued(self) -> int:
        """Prompts in the queue before the engine."""
        return self._admission.queued

    @property
    def queued_by_owner(self) -> dict[str, int]:
        """Whose prompts wait in the queue, by the name of their key."""
        return self._admission.queued_by_owner

    @property
    def retry_after(self) -> float:
        """Seconds that a refused request would be told to wait now."""
        return self._admission.retry_after()

    @property
    def silent_seconds(self) -> float:
        """How long the engine has made no progress although it has work."""
        return self._worker.pulse.silent_seconds

    def retire(self, successor: "ModelService | None") -> None:
        """Lose the name: who still asks here is sent on to the successor, if there is one. What was begun goes on until
        ``drain`` and ``stop``."""
        self._successor = successor

    async def drain(self, seconds: float) -> bool:
        """Take no more, let what is open end, and after so many seconds end it. Whether all ended by themselves."""
        self._is_draining = True
        self._admission.close()
        try:
            async with asyncio.timeout(seconds):
                while self._open or self.preparing:
                    await asyncio.sleep(DRAIN_SECONDS)
        except TimeoutError:
            error = ApiError(503, "the server shut down before the answer was complete", code="shutdown")
            for one in list(self._open.values()):
                self._give_up(one, "drained", error)
            return False
        return True

    async def stop(self) -> None:
        """End the engine's thread. The service is of no use afterwards."""
        self._is_draining = True
        self._admission.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._grammar_pool.shutdown(wait=False, cancel_futures=True)
        await self._loop.run_in_executor(None, self._worker.stop, 10.0)

    # Into the queue

    def _refuse_early(self, ask: Ask) -> None:
        """Templates and tokenizers cost too: what would be refused anyway is refused before them."""
        if self.preparing >= self.limits.queued_requests:
            raise self._rejected(ask, ApiError(503, "the queue is full", code="queue_full", retry_after=1.0))
        if not self._admission.has_room:
            self._offer(ask, [Ticket(owner=ask.owner.name, prompt_tokens=1, max_tokens=1)])

    def _offer(self, ask: Ask, tickets: list[Ticket]) -> None:
        try:
            self._admission.offer(tickets, time.perf_counter())
        except ApiError as error:
            raise self._rejected(ask, error) from None

    def _rejected(self, ask: Ask, error: ApiError) -> ApiError:
        event = Rejected(
            request_id=ask.request_id,
            model=self.name,
            owner=ask.owner.name,
            reason=error.code or "",
            retry_after=float(error.headers.get("Retry-After", 0)),
        )
        self._observe(lambda one: one.on_rejected(event))
        return error

    def _submit(self, ask: Ask, prepared: Sequence[Prepared]) -> Answers:
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
        self._offer(ask, tickets)
        jobs = [Job(request_id=ask.request_id, prompt=place, asked=one.asked) for place, one in enumerate(prepared)]
        answers = Answers(
            request_id=ask.request_id,
            prompts=[one.ids for one in prepared],
            prompt_texts=[one.text for one in prepared],
            samples=ask.samples,
            give_up=lambda: self._give_up_all(jobs, "abort"),
        )
        for place, (job, ticket, one) in enumerate(zip(jobs, tickets, prepared, strict=True)):
            self._open[job] = self._of_ticket[ticket] = _Open(
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
            model=self.name,
            owner=ask.owner.name,
            prompt_tokens=tuple(len(one.ids) for one in prepared),
            samples=ask.samples,
            max_tokens=tuple(one.max_tokens for one in prepared),
            at=tickets[0].queued_at,
            streams=ask.streams,
        )
        self._observe(lambda one: one.on_submitted(submitted))
        self._release()
        return answers

    def _release(self) -> None:
        """Give the engine what it has room for."""
        for ticket in self._admission.release(self._waiting_in_engine, time.perf_counter()):
            self._worker.submit(self._of_ticket[ticket].job)

    # Back from the engine

    def _hand_over(self, delivery: Delivery) -> None:
        """Called in the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._receive, delivery)
        except RuntimeError:  # the loop is closed: nobody is left who could be told
            log.debug("news of %s came after the end", self.name)

    def _receive(self, delivery: Delivery) -> None:
        now = time.perf_counter()
        for step in delivery.steps:
            self._waiting_in_engine = step.waiting
            step = replace(step, queued=self._admission.queued)
            self._observe(partial(_tell_step, step))
        for news in delivery.news:
            one = self._open.get(news.job)
            if one is not None:
                self._read(one, news, now)
        self._release()

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
        return refusal(news.error, self.model)

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
            model=self.name,
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
        self._observe(lambda observer: observer.on_finished(finished))
        if not one.left:
            self._close(one)

    def _close(self, one: _Open) -> None:
        if one.ticket.released_at:
            self._admission.end(one.ticket, one.answer_tokens)
        del self._open[one.job], self._of_ticket[one.ticket]
        if not self._open:
            self._admission.rate.pause()

    # Giving up

    def _give_up_all(self, jobs: Sequence[Job], outcome: Outcome) -> None:
        for job in jobs:
            if (one := self._open.get(job)) is not None:
                self._give_up(one, outcome)
        self._release()

    def _give_up(self, one: _Open, outcome: Outcome, error: ApiError | None = None) -> None:
        """End a job from here; its reader gets ``error``, if it still reads."""
        one.ending = one.ending or outcome
        if self._admission.withdraw(one.ticket):
            now = time.perf_counter()
            for sample in range(one.left):
                self._end_answer(one, News(job=one.job, sample=sample, is_last=True), now)
        else:
            self._worker.abort(one.job)
        if error is not None:
            one.answers.fail(error)

    async def _sweep(self) -> None:
        """End what has waited or run for too long."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.perf_counter()
            for one in list(self._open.values()):
                age = now - one.ticket.queued_at
                if one.ending is not None:
                    continue
                if not one.ticket.released_at and age > self.limits.queue_seconds:
                    self._give_up(one, "timeout", self._waited_too_long())
                elif age > self.limits.answer_seconds:
                    self._give_up(one, "timeout", self._took_too_long())

    def _waited_too_long(self) -> ApiError:
        return ApiError(
            503,
            f"the request waited longer than {self.limits.queue_seconds:g} s; try again later",
            code="queue_timeout",
            retry_after=self._admission.retry_after(),
        )

    def _took_too_long(self) -> ApiError:
        return ApiError(
            503, f"the answer took longer than {self.limits.answer_seconds:g} s; ask for fewer tokens", code="timeout"
        )

    def _observe(self, tell: Callable[[Observer], Any]) -> None:
        for observer in self._observers:
            try:
                tell(observer)
            except Exception:
                log.exception("an observer failed")


def _tell_step(step: Any, observer: Observer) -> None:
    observer.on_step(step)
