"""What prefix caching gives to requests with a common beginning, and what it costs to those without one.

    python benchmarks/make_random_checkpoint.py smollm2-135m CHECKPOINT --tokenizer DIR
    python benchmarks/prefix_cache.py --model CHECKPOINT

All requests are there at the start. With and without the cache alternate in one process; the cache is emptied before
every run. The cost without hits is given twice: as the ratio of whole runs, and, since that drowns in the noise of a
shared machine, as the processor time that the engine spends outside the forward pass, with the cache and without.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

import flyweight
from flyweight.engine.engine import Engine
from flyweight.engine.request import Request


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prefix", type=int, default=1000)
    parser.add_argument("--own", type=int, default=24, help="tokens of each prompt behind the prefix")
    parser.add_argument("--answer", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--kv-dtype", default="bfloat16")
    parser.add_argument("--cases", default="shared,different")
    options = parser.parse_args()

    length = options.prefix + options.own + options.answer
    model = flyweight.load(
        options.model, compute=options.compute, kv_dtype=options.kv_dtype, cache_tokens=36 * (length + 64)
    )
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {platform.processor() or platform.machine()}")
    print("python " + " ".join(sys.argv))
    print("\n".join(model.description), flush=True)
    rng = np.random.default_rng(1)
    low, high = 3, model.spec.vocab_size
    shared = rng.integers(low, high, options.prefix).tolist()
    own = rng.integers(low, high, (options.requests, options.own)).tolist()
    prompts = {
        "shared": [[*shared, *tail] for tail in own],
        "different": rng.integers(low, high, (options.requests, options.prefix + options.own)).tolist(),
    }
    timed = TimedForward(model)
    run(timed, prompts["different"][:2], options.answer, caching=False)  # warm
    for case in options.cases.split(","):
        seconds: dict[bool, list[float]] = {True: [], False: []}
        outside: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(options.rounds):
            for caching in (True, False) if turn % 2 == 0 else (False, True):
                wall, bookkeeping = run(timed, prompts[case], options.answer, caching=caching)
                seconds[caching].append(wall)
                outside[caching].append(bookkeeping)
                print(
                    f"  {case:9} cache {'on ' if caching else 'off'} {wall:7.2f} s, outside the forward pass "
                    f"{bookkeeping:.3f} s of processor time, hits {timed.engine.pool.statistics.hits} so far",
                    flush=True,
                )
        on, off = statistics.median(seconds[True]), statistics.median(seconds[False])
        cost = statistics.median(outside[True]) - statistics.median(outside[False])
        tokens = options.requests * options.answer
        print(
            f"{case}: output tokens/s {tokens / on:.1f} with the cache, {tokens / off:.1f} without; time without / "
            f"with {off / on:.3f}; bookkeeping of the cache {1e3 * cost:.1f} ms, {100 * cost / off:.3f} % of the time "
            "without"
        )
    return 0


class TimedForward:
    """The model's engine, with the processor time of its forward passes counted in ``seconds``."""

    def __init__(self, model: flyweight.LanguageModel) -> None:
        self.seconds = 0.0
        self._forward = model.forward
        self.engine: Engine = model.open_engine()
        self.engine._forward = self.forward

    def forward(self, batch: Any) -> Any:
        began = time.thread_time()
        logits = self._forward(batch)
        self.seconds += time.thread_time() - began
        return logits


def run(timed: TimedForward, prompts: Sequence[Sequence[int]], answer: int, *, caching: bool) -> tuple[float, float]:
    """Wall seconds, and processor seconds of this thread outside the forward pass."""
    engine = timed.engine
    engine.forget_prefixes()
    options = flyweight.SamplingOptions(temperature=0.0, max_tokens=answer, ignore_eos=True)
    began, busy, forward = time.perf_counter(), time.thread_time(), timed.seconds
    for prompt in prompts:
        engine.add(Request(token_ids=tuple(prompt), options=options, prefix_caching=caching))
    while engine.has_work:
        engine.step()
    return time.perf_counter() - began, time.thread_time() - busy - (timed.seconds - forward)


if __name__ == "__main__":
    sys.exit(main())
