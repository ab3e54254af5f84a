"""Engines with a Python interface: a process that runs ``worker_loop`` in the engine's own environment."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flyweight.bench.peers.processes import EngineProcess
from flyweight.bench.tasks import (
    SHORT_PROMPT,
    ManyStreams,
    OneStream,
    Prompts,
    Start,
    Task,
    decode_figures,
    prefill_figures,
    stream_figures,
)

LOOP = Path(__file__).with_name("inside") / "worker_loop.py"
PROTOCOL = (
    "in process, token ids in, greedy, one process per task; a depth is a prompt computed before, found again by the "
    "prefix cache; one unmeasured warm-up; prefill is the time to the first token, decode from the first token "
    "to the last"
)


class Worker:
    """A process that holds an engine and answers requests.

    Args:
        python: the interpreter of the engine's environment.
        module: the worker module that lies beside ``worker_loop``.
        options: JSON for the module's ``open_engine``.
    """

    def __init__(
        self,
        python: Path,
        module: str,
        options: Mapping[str, Any],
        *,
        log: Path,
        environment: Mapping[str, str],
    ) -> None:
        command = [str(python), str(LOOP), module, json.dumps(dict(options))]
        self._process = EngineProcess(command, log=log, environment=environment)
        try:
            self.facts: dict[str, str] = {**self._read()["facts"], "command": " ".join(command)}
        except BaseException:
            self.close()
            raise

    def run(self, prompts: list[list[int]], max_tokens: int) -> list[list[float]]:
        """Seconds since the request at which each prompt's tokens came."""
        assert self._process.process.stdin is not None
        try:
            print(
                json.dumps({"prompts": prompts, "max_tokens": max_tokens}),
                file=self._process.process.stdin,
                flush=True,
            )
        except BrokenPipeError:
            raise self._process.error("the process has ended") from None
        times: list[list[float]] = self._read()["times"]
        return times

    def pause(self) -> None:
        self._process.pause()

    def resume(self) -> None:
        self._process.resume()

    def close(self) -> float:
        return self._process.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.process.stdout is not None
        line = self._process.process.stdout.readline()
        if not line:
            raise self._process.error("the process has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._process.error(answer["error"])
        return answer


class WorkerSession:
    """A worker that is open for one task."""

    def __init__(self, worker: Worker, task: OneStream | ManyStreams) -> None:
        self.facts: Mapping[str, str] = worker.facts
        self._worker = worker
        self._task = task
        self._prefix: list[int] = []
        self._is_warm = False

    def measure(self, prompts: Prompts) -> dict[str, float]:
        if not self._is_warm:
            self._warm_up(prompts)
        if isinstance(self._task, ManyStreams):
            requests = [prompts.draw(self._task.prompt) for _ in range(self._task.count)]
            return stream_figures(self._worker.run(requests, self._task.output))
        figures: dict[str, float] = {}
        if self._task.prefill:
            prompt = self._prefix + prompts.draw(self._task.prefill)
            figures |= prefill_figures(self._task.prefill, self._worker.run([prompt], 1)[0][0])
        if self._task.decode:
            prompt = self._prefix + prompts.draw(SHORT_PROMPT)
            figures |= decode_figures(self._worker.run([prompt], self._task.decode + 1)[0])
        return figures

    def _warm_up(self, prompts: Prompts) -> None:
        """What an engine does once: threads, buffers, kernels made for a shape; and the prefix into the cache."""
        self._is_warm = True
        if isinstance(self._task, ManyStreams):
            self._worker.run([prompts.draw(self._task.prompt // 4) for _ in range(self._task.count)], 4)
            return
        self._prefix = prompts.draw(self._task.depth)
        if self._prefix:
            self._worker.run([self._prefix], 1)
        self.measure(prompts)

    def pause(self) -> None:
        self._worker.pause()

    def resume(self) -> None:
        self._worker.resume()

    def close(self) -> float:
        return self._worker.close()


class StartSession:
    """Starts a worker anew for each measurement; between them nothing runs."""

    def __init__(self, start: Callable[[], Worker]) -> None:
        self.facts: Mapping[str, str] = {}
        self._start = start
        self._peak = 0.0

    def measure(self, prompts: Prompts) -> dict[str, float]:
        began = time.perf_counter()
        worker = self._start()
        try:
            worker.run([prompts.draw(SHORT_PROMPT)], 1)
            seconds = time.perf_counter() - began
        finally:
            self._peak = max(self._peak, worker.close())
        self.facts = worker.facts
        return {"start": seconds}

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def close(self) -> float:
        return self._peak


def open_worker(start: Callable[[], Worker], task: Task) -> WorkerSession | StartSession:
    """The session of a task: ``start`` starts a worker that is made for it."""
    return StartSession(start) if isinstance(task, Start) else WorkerSession(start(), task)
