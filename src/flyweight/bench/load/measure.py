"""A whole run: meet the server, warm it up, run the stages, and say what was found, also where it was interrupted."""

import asyncio
import datetime as dt
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from flyweight.bench.load.asks import Ask
from flyweight.bench.load.client import AnswerClient
from flyweight.bench.load.drive import Driver, StageRecording
from flyweight.bench.load.http_client import Address, HttpClient
from flyweight.bench.load.lengths import Lengths
from flyweight.bench.load.options import LoadOptions
from flyweight.bench.load.prompts import FromFile, PromptSource, RandomIds, RandomText, read_prompts
from flyweight.bench.load.result import LoadReport, StageResult, make_stage_result
from flyweight.bench.load.server import Server, meet
from flyweight.bench.load.stages import SWEEP_IN_FLIGHT, Stage, amounts, closed_stage, open_stage, plan_stages
from flyweight.bench.load.token_lengths import ByTokenizer, ask_server
from flyweight.bench.load.trace import TraceLine, read_trace, trace_asks
from flyweight.errors import UsageError
from flyweight.machine import Machine
from flyweight.progress import Progress, Silent
from flyweight.tokenizer import Tokenizer
from flyweight.version import __version__

FOLLOWS = 0.9  # share of the offered rate that a server must answer while it is offered, to count as following
SWEEP_BEYOND = 1.2  # the last rate of a sweep over what the server gave with many requests in flight


def measure_load(url: str, options: LoadOptions | None = None, *, progress: Progress | None = None) -> LoadReport:
    """Measure the OpenAI-compatible server at ``url``.

    Ctrl-C (SIGINT, in the main thread) ends the run: what was measured until then is returned, marked as partial.

    Raises:
        UsageError: there is no server, it wants a key, or it refuses what the options ask for.
        DataError: a prompt file or trace that cannot be read.
    """
    options = options if options is not None else LoadOptions()
    http = HttpClient(Address.parse(url), api_key=os.environ.get(options.api_key_variable))
    return asyncio.run(_measure(url, options, http, progress if progress is not None else Silent()))


async def _measure(url: str, options: LoadOptions, http: HttpClient, progress: Progress) -> LoadReport:
    trace = _read_trace(options)
    tokenizer = Tokenizer.open(options.tokenizer) if options.tokenizer is not None else None
    try:
        server = await meet(http, url, options)
        source, length_source = await _prompts(http, server, options, tokenizer)
        client = AnswerClient(http, server.writer, timeout=options.timeout, count=_counter(tokenizer))
        driver = Driver(client, progress)
        run = _Run(options, driver, source)
        with _interruptible(driver):
            warm_up = await run.warm_up()
            if options.load == "sweep":
                await run.sweep()
            else:
                for stage in plan_stages(options, trace):
                    await run.stage(stage)
    finally:
        http.close()
    facts = {
        "tokens of prompts by": length_source,
        "usage with every event": "asked for" if server.writer.continuous_usage else "the server refuses it",
        "usage": "asked for" if server.writer.usage else "the server refuses stream_options",
        "keep-alive comments": str(client.comments),
        "events": str(client.num_events),
        "bytes received": str(client.bytes_received),
        "python": platform.python_version(),
        "command": " ".join(sys.argv) if Path(sys.argv[0]).name == "flyweight" else "",
    }
    return LoadReport(
        url=url,
        model=server.model,
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        flyweight_version=__version__,
        machine=Machine.detect().describe(),
        client={name: text for name, text in facts.items() if text},
        server=server.facts,
        options={name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()},
        warm_up=warm_up,
        partial=driver.stopped,
        stages=tuple(run.results),
        notes=tuple(run.notes),
    )


class _Run:
    """The stages of one run and what came of them."""

    def __init__(self, options: LoadOptions, driver: Driver, source: PromptSource | None) -> None:
        self._options, self._driver, self._source = options, driver, source
        self.results: list[StageResult] = []
        self.notes: list[str] = []

    async def warm_up(self) -> int:
        """Send the requests that count for nothing; returns how many were answered."""
        options = self._options
        if not options.warmup or self._source is None:
            return 0
        places = min(options.warmup, max(options.concurrency, default=1))
        recording = await self._driver.closed(
            places, self._source.draw, requests=options.warmup, duration=None, stage="warm-up"
        )
        good = sum(one.succeeded for one in recording.records)
        if not good and not self._driver.stopped:
            raise UsageError(f"none of {options.warmup} warm-up requests was answered: {recording.records[0].error}")
        return good

    async def stage(self, stage: Stage) -> StageResult | None:
        """Run one stage; None when the run was stopped before it."""
        if self._driver.stopped:
            return None
        if stage.concurrency is not None:
            recording = await self._driver.closed(
                stage.concurrency, self._draw, requests=stage.requests, duration=stage.duration, stage=stage.label
            )
        else:
            asks = trace_asks(stage.trace, self._source) if stage.trace else [self._draw() for _ in stage.times]
            recording = await self._driver.open(stage.times, asks, max_in_flight=stage.max_in_flight, stage=stage.label)
        result = make_stage_result(stage, recording, self._options.slo, seed=self._options.seed)
        self.results.append(result)
        return result

    async def sweep(self) -> None:
        """One at a time, many at once, then rates between what these two gave, until the server falls behind."""
        options = self._options
        requests, duration = amounts(options)
        most = options.max_in_flight or SWEEP_IN_FLIGHT
        slow = await self.stage(closed_stage(1, requests, duration))
        fast = await self.stage(closed_stage(most, requests, duration))
        if slow is None or fast is None or not slow.figures.completed or not fast.figures.completed:
            self.notes.append("the sweep ended before its rates: the stages that choose them brought nothing")
            return
        low, high = (one.figures.steady or one.figures.whole for one in (slow, fast))
        least = min(low.requests or slow.figures.whole.requests, high.requests or fast.figures.whole.requests)
        top = (high.requests or fast.figures.whole.requests) * SWEEP_BEYOND
        for place, rate in enumerate(np.linspace(least, max(top, least * 1.01), options.sweep_stages)):
            result = await self.stage(open_stage(options, float(rate), place))
            if result is None:
                return
            share = followed(result.recording)
            if share < FOLLOWS:
                self.notes.append(
                    f"the sweep ended at {rate:.3g} requests/s: {share:.0%} of the requests due were answered "
                    f"while load was offered, and the queue grew"
                )
                return

    def _draw(self) -> Ask:
        if self._source is None:
            raise UsageError("there is no source of prompts for this load")  # a trace with prompts needs none
        return self._source.draw()


def followed(recording: StageRecording) -> float:
    """Requests that ended while load was offered, over those that would have with an answer's usual time: near 1 where
    the server follows, and less the faster a queue grows."""
    ends = sorted(one.end - one.sent for one in recording.records if one.succeeded and one.end and one.sent is not None)
    if not ends:
        return 0.0
    usual = ends[len(ends) // 10]  # an answer that waited little
    due = sum(one.scheduled + usual <= recording.offered for one in recording.records)
    ended = sum(one.end is not None and one.succeeded and one.end <= recording.offered for one in recording.records)
    return min(1.0, ended / due) if due else 1.0


def _read_trace(options: LoadOptions) -> list[TraceLine]:
    if options.trace is None:
        return []
    return read_trace(
        options.trace,
        unit_seconds=1e-3 if options.trace_unit == "ms" else 1.0,
        speed=options.trace_speed,
        most=options.requests,
        endpoint=options.endpoint,
        output_tokens=max(1, round(Lengths.parse(options.output_tokens).first)),
    )


async def _prompts(
    http: HttpClient, server: Server, options: LoadOptions, tokenizer: Tokenizer | None
) -> tuple[PromptSource, str]:
    """The source of prompts, and by what their lengths are known."""
    inputs, outputs = Lengths.parse(options.input_tokens), Lengths.parse(options.output_tokens)
    if options.prompt_file is not None:
        asks = read_prompts(options.prompt_file, outputs, endpoint=options.endpoint, seed=options.seed)
        return FromFile(asks), "the prompt file"
    shared = {"shared_prefix": options.shared_prefix, "prefixes": options.prefixes, "seed": options.seed}
    if options.prompts == "ids" and tokenizer is not None:
        return RandomIds(tokenizer.vocab_size, inputs, outputs, **shared), "token ids"
    if tokenizer is not None:
        maker: ByTokenizer = ByTokenizer(tokenizer=tokenizer)
        return RandomText(maker, inputs, outputs, **shared), maker.source
    asked = await ask_server(http, server.writer)
    return RandomText(asked, inputs, outputs, **shared), f"the server's {asked.source}"


def _counter(tokenizer: Tokenizer | None) -> Callable[[str], int] | None:
    return None if tokenizer is None else lambda text: len(tokenizer.encode(text, add_special_tokens=False))


@contextmanager
def _interruptible(driver: Driver) -> Iterator[None]:
    """The first Ctrl-C stops the driver; a second one ends the program as ever. Outside the main thread signals are
    none of ours, and whoever runs us there decides what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT) or signal.default_int_handler  # None: not set from Python

    def stop() -> None:
        give_back()
        driver.stop()

    def give_back() -> None:
        if handles_signals:
            loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)

    try:
        loop.add_signal_handler(signal.SIGINT, stop)
        handles_signals = True
    except NotImplementedError:  # Windows
        signal.signal(signal.SIGINT, lambda _number, _frame: loop.call_soon_threadsafe(stop))
        handles_signals = False
    try:
        yield
    finally:
        give_back()
