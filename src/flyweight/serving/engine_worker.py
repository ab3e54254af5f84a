"""The thread that owns a model's engine: it takes jobs, makes steps, and tells what they brought.

Nobody else touches the engine. Commands come in through a queue and are carried out between steps; all news of a step
goes out as one ``Delivery``. Text is made here too (detokenizing and stop strings), so that a stop string frees its
blocks in the step that finds it. A fault in one request ends that request: a step that fails is made again, and when it
fails again every request is tried alone. The thread knows neither HTTP nor who asked, and never waits for a reader.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

from flyweight.engine.engine import Engine
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.metrics import EngineMetrics
from flyweight.engine.request import Event, RequestRecord
from flyweight.engine.scheduler import SchedulerState, StepBudget, StepPlan
from flyweight.errors import FlyweightError, IntegrityError
from flyweight.serving.jobs import Delivery, Job, News
from flyweight.serving.observation import AnswerName, ChunkComputed, StepTaken
from flyweight.serving.pulse import Pulse

T = TypeVar("T")

IDLE_SECONDS = 0.5
FAILURES_IN_A_ROW = 3

log = logging.getLogger("flyweight")


class EngineWorker:
    """Runs one model.

    Args:
        model: whose engine it opens; while the worker runs, nobody else may use the model to compute.
        name: the served name, for the thread and the news.
        deliver: is called in the engine's thread after each step that brought something; it must not block.

    Attributes:
        pulse: whether the engine makes progress.
        metrics: the engine's counters after the last step.
    """

    def __init__(self, model: LanguageModel, *, name: str, deliver: Callable[[Delivery], None]) -> None:
        self.model = model
        self.name = name
        self.pulse = Pulse()
        self._engine: Engine = model.open_engine(trace=self._keep_plan)
        self.metrics: EngineMetrics = self._engine.metrics()
        self._deliver = deliver
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._is_stopping = False
        self._live: dict[int, tuple[Job, int]] = {}  # by the engine's number
        self._numbers: dict[Job, dict[int, int]] = {}  # of each job's open answers
        self._delivery = Delivery()
        self._plan: StepPlan | None = None
        self._failures = 0
        self._lost_in_a_row = 0
        self._is_checked = True
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)

    @property
    def max_sequences(self) -> int:
        """Answers that run at once."""
        return self._engine.budget.sequences

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float | None = None) -> bool:
        """End the thread after its present step; answers that are open are given up. Whether it has ended."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Give a job to the engine; what becomes of it is told by deliveries."""
        self._command(lambda: self._take(job))

    def abort(self, job: Job, sample: int | None = None) -> None:
        """Give up a job, or one of its answers; its blocks are free after the present step. The last news of each
        answer follows, except for those that have ended already."""
        self._command(lambda: self._drop(job, sample))

    def run(self, function: Callable[[Engine], T]) -> "Future[T]":
        """Call a function in the engine's thread between two steps, such as one that looks at its accounts."""
        future: Future[T] = Future()

        def command() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(self._engine))
            except BaseException as error:  # noqa: BLE001 - it belongs to who waits for the result
                future.set_exception(error)

        self._command(command)
        return future

    def _command(self, command: Callable[[], None]) -> None:
        with self._wake:
            self._commands.append(command)
            if not self.pulse.has_work:
                self.pulse.beat(has_work=True)  # from here on silence means that the engine hangs
            self._wake.notify()

    # The thread

    def _run(self) -> None:
        try:
            while self._wait():
                if self._commands:
                    for _ in range(len(self._commands)):  # those that come meanwhile wait for a step
                        self._commands.popleft()()
                    self.metrics = self._engine.metrics()
                if self._engine.has_work:
                    self._step()
                self.pulse.beat(has_work=self._engine.has_work or bool(self._commands))
                self._flush()
        except BaseException as error:
            log.exception("the engine of %s has ended", self.name)
            self.pulse.fault = f"the engine has ended: {type(error).__name__}"
            raise
        finally:
            for number in list(self._live):
                self._end(number, error=FlyweightError("the engine was stopped"))
            self._flush()

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when the thread shall end."""
        with self._wake:
            while not (self._commands or self._engine.has_work or self._is_stopping):
                if not self._wake.wait(IDLE_SECONDS) and not self._is_checked:
                    self._check()
            return not self._is_stopping

    def _check(self) -> None:
        """Idle time is used to see whether blocks and requests agree."""
        self._is_checked = True
        try:
            self._engine.check_integrity()
        except IntegrityError as error:
            log.error("the cache of %s contradicts itself: %s", self.name, error)
            self.pulse.fault = f"the cache contradicts itself: {error}"

    def _flush(self) -> None:
        if not self._delivery.news and not self._delivery.steps:
            return
        delivery, self._delivery = self._delivery, Delivery()
        self._deliver(delivery)

    # Commands

    def _take(self, job: Job) -> None:
        try:
            numbers = self._engine.add_samples(job.asked.request, len(job.asked.answers))
        except Exception as error:  # noqa: BLE001 - it belongs to this job
            for sample in range(len(job.asked.answers)):
                self._tell(job, sample, error=self._told(error))
            return
        self._numbers[job] = {}
        for sample, number in enumerate(numbers):
            self._live[number] = (job, sample)
            self._numbers[job][sample] = number

    def _drop(self, job: Job, sample: int | None) -> None:
        open_answers = self._numbers.get(job, {})
        for number in list(open_answers.values()) if sample is None else [open_answers.get(sample)]:
            if number is not None:
                self._end(number)

    # Steps

    def _step(self) -> None:
        began = time.perf_counter()
        try:
            events = self._engine.step()
        except Exception as error:  # noqa: BLE001 - whoever causes it is searched for
            self._failed(error)
            return
        self._failures = self._lost_in_a_row = 0
        self.pulse.trouble = None
        self._account(events, began)

    def _account(self, events: Iterable[Event], began: float) -> None:
        self._is_checked = False
        self.pulse.steps += 1
        self.metrics = self._engine.metrics()
        answered = []
        plan, names = self._plan, dict(self._live)
        for event in events:
            if event.id in self._live:
                answered.append((self._name(event.id, names), len(event.token_ids)))
                self._read(event)
        if plan is not None:
            self._delivery.steps.append(self._describe(plan, names, tuple(answered), began))

    def _failed(self, error: Exception) -> None:
        """A step was not made. The first time it is tried again; then the one that it fails for is searched."""
        log.error("a step of %s failed", self.name, exc_info=error)
        self.pulse.failed_steps += 1
        self._failures += 1
        if self._failures < 2:
            return
        self._failures = 0
        for number in list(self._live):
            began = time.perf_counter()
            try:
                events = self._engine.step(only=[number])
            except Exception as cause:  # noqa: BLE001 - found
                self._lost_in_a_row += 1
                self._end(number, error=self._told(cause))
            else:
                self._lost_in_a_row = 0
                self._account(events, began)
        if self._lost_in_a_row >= FAILURES_IN_A_ROW:
            self.pulse.trouble = f"the last {self._lost_in_a_row} requests failed one after another"

    def _read(self, event: Event) -> None:
        """Turn an event into news: text, and what has ended."""
        job, sample = self._live[event.id]
        answer = job.asked.answers[sample]
        if event.error is not None:
            self._forget(event.id)
            self._tell(job, sample, error=event.error, record=event.record)
            return
        try:
            pieces = answer.read(event)
        except Exception as error:  # noqa: BLE001 - it belongs to this answer
            self._end(event.id, error=self._told(error), record=event.record)
            return
        if not answer.is_finished:
            self._delivery.news.append(
                News(
                    job=job,
                    sample=sample,
                    text="".join(text for text, _ in pieces),
                    token_ids=event.token_ids,
                    log_probabilities=event.log_probabilities,
                    prompt_log_probabilities=event.prompt_log_probabilities,
                )
            )
            return
        record = event.record if event.record is not None else self._engine.abort(event.id)
        self._forget(event.id)
        if record is None:
            self._tell(job, sample, error=FlyweightError("the engine lost an answer"))
            return
        try:
            completion = answer.complete(record)
        except Exception as error:  # noqa: BLE001 - it belongs to this answer
            self._tell(job, sample, error=self._told(error), record=record)
            return
        self._delivery.news.append(
            News(
                job=job,
                sample=sample,
                text="".join(text for text, _ in pieces),
                token_ids=tuple(token for _, token in pieces),
                log_probabilities=event.log_probabilities[: len(pieces)],
                prompt_log_probabilities=event.prompt_log_probabilities,
                completion=completion,
                record=record,
                is_last=True,
            )
        )

    def _end(self, number: int, *, error: FlyweightError | None = None, record: RequestRecord | None = None) -> None:
        """End an answer from outside."""
        job, sample = self._live[number]
        self._forget(number)
        ended = self._engine.abort(number)
        self._tell(job, sample, error=error, record=ended if ended is not None else record)

    def _tell(
        self, job: Job, sample: int, *, error: FlyweightError | None, record: RequestRecord | None = None
    ) -> None:
        self._delivery.news.append(News(job=job, sample=sample, error=error, record=record, is_last=True))

    def _forget(self, number: int) -> None:
        job, sample = self._live.pop(number)
        del self._numbers[job][sample]
        if not self._numbers[job]:
            del self._numbers[job]

    def _told(self, error: Exception) -> FlyweightError:
        if isinstance(error, FlyweightError):
            return error
        log.error("a request on %s failed", self.name, exc_info=error)
        return FlyweightError(f"the request failed: {type(error).__name__}")

    # What observers are told

    def _keep_plan(self, _state: SchedulerState, _budget: StepBudget, plan: StepPlan) -> None:
        self._plan = plan

    def _describe(
        self,
        plan: StepPlan,
        names: dict[int, tuple[Job, int]],
        answered: tuple[tuple[AnswerName, int], ...],
        began: float,
    ) -> StepTaken:
        return StepTaken(
            model=self.name,
            number=self.pulse.steps,
            began=began,
            ended=time.perf_counter(),
            chunks=tuple(
                ChunkComputed(
                    name=self._name(one.id, names),
                    start=one.start,
                    count=one.count,
                    drafts=one.drafts,
                    found=len(one.found),
                )
                for one in plan.chunks
            ),
            answered=answered,
            admitted=tuple(self._name(one, names) for one in plan.admitted),
            preempted=tuple(self._name(one, names) for one in plan.preempted),
            waiting=self.metrics.waiting,
            queued=0,
            metrics=self.metrics,
        )

    def _name(self, number: int, names: dict[int, tuple[Job, int]]) -> AnswerName:
        job, sample = names[number]
        return job.name(sample)
