"""Sending the requests of a stage, on schedule or so many at once, and stopping in the middle with what came.

Bodies are made before a stage begins wherever their number is known, so that making them does not delay sending.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass

from flyweight.bench.load.asks import Ask
from flyweight.bench.load.client import AnswerClient
from flyweight.bench.load.recording import RequestRecord
from flyweight.bench.load.watch import ClientFigures, ClientWatch
from flyweight.progress import Progress

UNBOUNDED_IN_FLIGHT = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecording:
    """What a stage brought: records whose times begin with 0 at its start. ``offered`` is until when load was offered:
    the last due time, or the moment when a closed loop had the first empty place."""

    records: list[RequestRecord]
    offered: float
    seconds: float
    interrupted: bool
    client: ClientFigures


class Driver:
    """Runs one stage after another on one client. :meth:`stop` ends the running one and all to come."""

    def __init__(self, client: AnswerClient, progress: Progress) -> None:
        self._client, self._progress = client, progress
        self._tasks: set[asyncio.Task[None]] = set()
        self._seconds_shown = 0
        self.stopped = False

    def stop(self) -> None:
        """Send nothing more, and break off what is in flight; it is recorded as interrupted."""
        self.stopped = True
        for task in self._tasks:
            task.cancel()

    async def closed(
        self, concurrency: int, draw: Callable[[], Ask], *, requests: int | None, duration: float | None, stage: str
    ) -> StageRecording:
        """Keep so many requests in flight until the number or the seconds are used up; then wait for the answers."""
        records: list[RequestRecord] = []
        prepared = self._prepare([draw() for _ in range(requests)]) if requests is not None else self._endless(draw)
        ends: list[float] = []
        self._seconds_shown = 0
        self._progress.start(stage, requests if requests is not None else round(duration or 0))

        async def place() -> None:
            for ask, request in prepared:
                now = time.perf_counter()
                if self.stopped or (duration is not None and now - start >= duration):
                    break
                record = _record(len(records), now, ask)
                records.append(record)
                await self._client.answer(request, record)
                self._note(record, time.perf_counter() - start if requests is None else None)
            ends.append(time.perf_counter())

        async with ClientWatch() as watch:
            start = time.perf_counter()
            await self._run([place() for _ in range(min(concurrency, requests or concurrency))])
        offered = min(ends, default=time.perf_counter()) - start
        return self._finish(records, start, min(offered, duration or offered), watch, [])

    async def open(
        self, times: Sequence[float], asks: Sequence[Ask], *, max_in_flight: int | None, stage: str
    ) -> StageRecording:
        """Send each ask when it is due, whatever the server does; then wait for the answers."""
        records: list[RequestRecord] = []
        prepared = list(self._prepare(asks))
        room = asyncio.Semaphore(max_in_flight if max_in_flight is not None else UNBOUNDED_IN_FLIGHT)
        self._progress.start(stage, len(times))

        async def one(request: bytes, record: RequestRecord) -> None:
            try:
                await self._client.answer(request, record)
            finally:
                room.release()
            self._note(record, None)

        async def send_all() -> None:
            for moment, (ask, request) in zip(times, prepared, strict=True):
                delay = start + moment - time.perf_counter()
                if delay > 0:
                    await asyncio.sleep(delay)
                record = _record(len(records), start + moment, ask)
                records.append(record)
                await room.acquire()
                self._start(one(request, record))

        async with ClientWatch() as watch:
            start = time.perf_counter()
            await self._run([send_all()])
            while self._tasks:
                await asyncio.wait(self._tasks)
        delays = (
            [] if max_in_flight is not None else [one.sent - one.scheduled for one in records if one.sent is not None]
        )
        return self._finish(
            records, start, times[-1] if not self.stopped else time.perf_counter() - start, watch, delays
        )

    def _finish(
        self, records: list[RequestRecord], start: float, offered: float, watch: ClientWatch, delays: list[float]
    ) -> StageRecording:
        seconds = max([one.end for one in records if one.end is not None], default=start) - start
        for record in records:
            if record.sent is None:
                record.fail("interrupted", "the run was interrupted before it was sent")
            record.shift(start)
        self._progress.finish()
        return StageRecording(
            records=records, offered=offered, seconds=seconds, interrupted=self.stopped, client=watch.figures(delays)
        )

    def _prepare(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, bytes]]:
        return iter([(ask, self._client.encode(ask)) for ask in asks])

    def _endless(self, draw: Callable[[], Ask]) -> Iterator[tuple[Ask, bytes]]:
        while True:
            ask = draw()
            yield ask, self._client.encode(ask)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, works: Sequence[Coroutine[None, None, None]]) -> None:
        """Until all are done or stopped; an error of our own is raised."""
        found = await asyncio.gather(*(self._start(work) for work in works), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, asyncio.CancelledError):
                raise one

    def _note(self, record: RequestRecord, elapsed: float | None) -> None:
        """Progress: by request, or where the number is not known by seconds."""
        amount = 1
        if elapsed is not None:
            amount = max(0, int(elapsed) - self._seconds_shown)
            self._seconds_shown += amount
        self._progress.advance(amount, note=record.error[:40])


def _record(number: int, due: float, ask: Ask) -> RequestRecord:
    return RequestRecord(number=number, scheduled=due, wanted_input=ask.input_tokens, wanted_output=ask.output_tokens)
