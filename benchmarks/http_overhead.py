"""What serving over HTTP costs: throughput through a server against the engine's own, and where a step's time goes.

    python benchmarks/http_overhead.py MODEL [--streams 16] [--input-tokens 32] [--output-tokens 64]

Two processes load MODEL alike: one serves it over HTTP, the other calls ``LanguageModel.generate``. They take turns on
the same prompts (random token ids, new in each round); the one that waits is stopped (SIGSTOP). The load generator runs
in this third process, on the same cores, as a client on the server's machine would. In both processes the forward pass
is timed: what is left of the time from the first step's beginning to the last one's end is scheduling, sampling, text,
and, in the server, waiting for the interpreter while its HTTP thread has it.
"""

import argparse
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from flyweight.bench.load import LoadOptions, measure_load
from flyweight.bench.load.server import GREETING
from flyweight.bench.statistics import paired_ratio
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.load import load
from flyweight.engine.preparing import WeightOptions
from flyweight.engine.sampling_options import SamplingOptions
from flyweight.machine import Machine

Figures = dict[str, float]


class TimedForward:
    """Stands in for a model's forward pass and keeps the seconds it took, and when it began and ended."""

    def __init__(self, model: LanguageModel) -> None:
        self._forward = model.forward
        self.reset()
        model.forward = self  # type: ignore[method-assign,assignment]  # the engine looks it up at each step

    def reset(self) -> None:
        self.steps: list[tuple[float, float, int]] = []

    def __call__(self, batch: Any) -> Any:
        began = time.perf_counter()
        found = self._forward(batch)
        self.steps.append((began, time.perf_counter(), len(batch.token_ids)))
        return found

    def figures(self, streams: int, skipped: int = 0) -> Figures:
        """What the steps after the first ``skipped`` say; a decode step computes one token of each stream."""
        steps = self.steps[skipped:]
        busy = steps[-1][1] - steps[0][0]
        pairs = [(one, after) for one, after in pairwise(steps) if one[2] == streams]
        between = [after[0] - one[1] for one, after in pairs]
        decode_figures = {
            "decode forward ms": 1e3 * statistics.median([one[1] - one[0] for one, _ in pairs] or [0.0]),
            "decode between ms": 1e3 * statistics.median(between or [0.0]),
            "decode not forward, share": sum(between) / (sum(after[0] - one[0] for one, after in pairs) or 1.0),
        }
        return {
            "steps": len(steps),
            "busy s": busy,
            "not forward, share": 1 - sum(ended - began for began, ended, _ in steps) / busy,
            **decode_figures,
        }


def thread_seconds() -> dict[str, float]:
    """CPU seconds of every Python thread of this process, by name."""
    return {
        one.name: time.clock_gettime(time.pthread_getcpuclockid(one.ident))
        for one in threading.enumerate()
        if one.ident is not None
    }


def open_model(arguments: argparse.Namespace) -> LanguageModel:
    """Alike in both processes."""
    return load(arguments.model, compute=arguments.compute, weights=WeightOptions(head=arguments.head))


def run_engine(arguments: argparse.Namespace, pipe: Connection) -> None:
    """The engine's own: answers prompts that come through the pipe."""
    model = open_model(arguments)
    forward = TimedForward(model)
    pipe.send("ready")
    while True:
        prompts, tokens = pipe.recv()
        forward.reset()
        began = time.perf_counter()
        options = SamplingOptions(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        answers = model.generate(prompts, options, batch_size=len(prompts))
        ended = time.perf_counter()
        count = sum(len(one.token_ids) for one in answers)
        pipe.send(
            {
                "output tokens": count,
                "output tokens/s": count / (ended - began),
                **forward.figures(len(prompts)),
            }
        )


def run_server(arguments: argparse.Namespace, pipe: Connection) -> None:
    """The server, in a thread beside the one that answers questions about time."""
    from flyweight.serving.limits import ServerLimits
    from flyweight.serving.options import ServeOptions
    from flyweight.serving.start import run_server as serve

    if arguments.switch_interval is not None:
        sys.setswitchinterval(arguments.switch_interval)
    model = open_model(arguments)
    forward = TimedForward(model)
    http = threading.Thread(
        target=serve,
        name="http",
        args=({"model": model}, ServeOptions(port=0), ServerLimits()),
        kwargs={"on_listening": lambda url, _server: pipe.send(url)},
        daemon=True,
    )
    http.start()
    while True:
        streams = pipe.recv()
        forward.reset()
        before = thread_seconds()
        pipe.send("reset")
        pipe.recv()
        after = thread_seconds()
        figures = forward.figures(streams, skipped=GREETING.output_tokens)
        busy = figures["busy s"]
        spent = {name: after[name] - before.get(name, 0.0) for name in after}
        pipe.send(
            {
                **figures,
                "HTTP thread CPU, share": spent["http"] / busy,
                "other threads CPU, share": sum(seconds for name, seconds in spent.items() if name.startswith("text"))
                / busy,
            }
        )


def ask_server(url: str, prompts: list[list[int]], tokens: int, pipe: Connection, folder: Path) -> Figures:
    """One round through HTTP, seen by the load generator and by the server itself."""
    pipe.send(len(prompts))
    pipe.recv()
    file = folder / "prompts.jsonl"
    file.write_text("".join(f'{{"prompt": {one}, "max_tokens": {tokens}}}\n' for one in prompts))
    options = LoadOptions(
        concurrency=(len(prompts),), requests=len(prompts), warmup=0, prompts="file", prompt_file=file, seed=0
    )
    report = measure_load(url, options)
    pipe.send("stop")
    inside = pipe.recv()
    stage = report.stages[0]
    figures = stage.figures
    if figures.completed != len(prompts) or figures.output_tokens is None or figures.whole.output_tokens is None:
        raise SystemExit(f"{figures.completed} of {len(prompts)} answers: {dict(figures.failures)}")
    return {
        "output tokens": figures.output_tokens,
        "output tokens/s": figures.whole.output_tokens,
        **inside,
        "client CPU, of a core": stage.recording.client.cpu_share,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--input-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compute", choices=["auto", "float32", "bfloat16", "int8"], default="auto")
    parser.add_argument("--head", choices=["as-stored", "int8", "int6", "int4"], default="as-stored")
    parser.add_argument("--switch-interval", type=float, help="seconds, of the server's interpreter")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    workers: dict[str, tuple[Any, Connection]] = {}
    found: dict[str, list[Figures]] = {"engine": [], "HTTP": []}
    generator = np.random.default_rng(0)
    try:
        for name in ("engine", "HTTP"):
            ours, theirs = context.Pipe()
            target = run_engine if name == "engine" else run_server
            process: Any = context.Process(target=target, args=(arguments, theirs), daemon=True)
            process.start()
            workers[name] = (process, ours)
            told = ours.recv()
            os.kill(process.pid, signal.SIGSTOP)
        print(Machine.detect().describe())
        print(f"{arguments.streams} streams of {arguments.input_tokens} + {arguments.output_tokens} tokens")
        with tempfile.TemporaryDirectory() as name:
            for number in range(-1, arguments.rounds):
                tokens = arguments.output_tokens if number >= 0 else 4
                shape = (arguments.streams, arguments.input_tokens)
                prompts = generator.integers(100, 900, shape).tolist()
                for one in ("engine", "HTTP") if number % 2 else ("HTTP", "engine"):
                    process, pipe = workers[one]
                    os.kill(process.pid, signal.SIGCONT)
                    if one == "engine":
                        pipe.send((prompts, tokens))
                        figures = pipe.recv()
                    else:
                        figures = ask_server(told, prompts, tokens, pipe, Path(name))
                    os.kill(process.pid, signal.SIGSTOP)
                    if number >= 0:
                        found[one].append(figures)
                        line = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
                        print(f"round {number}: {one}: {line}", flush=True)
    finally:
        for process, _ in workers.values():
            os.kill(process.pid, signal.SIGCONT)
            process.terminate()
    for one, rounds in found.items():
        for key in rounds[0]:
            values = [figures[key] for figures in rounds]
            print(f"{one:7} {key:26} {statistics.median(values):8.4g} [{min(values):.4g}, {max(values):.4g}]")
    rates = [[figures["output tokens/s"] for figures in found[one]] for one in ("HTTP", "engine")]
    ratio = paired_ratio(*rates)
    print(f"HTTP over engine: {ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] covers {ratio.coverage:.0%}")


if __name__ == "__main__":
    main()
