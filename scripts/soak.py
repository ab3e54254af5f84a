"""Ten minutes of everything at once, at twice what the server can do: does it keep its promises?

    python scripts/soak.py [--seconds 600] [--json FILE]

``flyweight serve`` serves the demo model in a process of its own, on the loopback address. First the sustainable rate
is measured with a fixed number of clients; then requests arrive at twice that rate: prompts of mixed lengths, streams
that are left, streams that are read slowly, broken grammars, prompts that are too long, tools, and bad bodies. Every
request must get an answer or an error; at the end no block may be held, ``check_integrity`` must be clean, the server's
memory must have been flat, and the 99th percentile of accepted requests must be inside the bound that follows from the
queue's limits. Exit code 1 where one of it fails.

Memory is flat when nothing is kept for a request: the slopes over the requests made, of the bytes that the C library
has handed out and of the interpreter's memory blocks, are below ``FLAT_BYTES`` and ``FLAT_BLOCKS`` with their whole
95 % intervals. A server that kept anything at all for each request would be above one of them. The first third of a run
does not count: what keeps a bounded number of requests fills up there. A run shorter than ``SECONDS_THAT_TELL`` has
intervals too wide to say so; it fails only where a whole interval lies above.

Resident bytes say less: the interpreter takes memory from the system by the mebibyte, a step of which within ten
minutes is as much as 16 bytes for each of 64,000 requests. In a run long enough they may rise by ``MOST_RISE`` from
the middle third to the last.
"""

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

CLIENTS = 8
QUEUE_SECONDS = 10.0
FLAT_BYTES = 16.0  # of a request
FLAT_BLOCKS = 0.25
MOST_RISE = 4 << 20
SECONDS_THAT_TELL = 300.0
PARTS = 8  # of the time that counts: their means are far enough apart not to depend on one another
STUDENT_95 = 2.447  # Student's t, 95 %, PARTS - 2 degrees of freedom
TEXT = "the gate guild home job of Falk Iveson Stanto works baker town lives owner number add two and"
WORDS = TEXT.split()
KEY = "soak-key-soak-key"


@dataclass(kw_only=True)
class Tally:
    """What became of requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    accepted_seconds: list[float] = field(default_factory=list)
    memory: list["Memory"] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The server's memory after so many seconds and requests: resident bytes, bytes and blocks in use.

    ``bytes`` are those that the C library has handed out (-1: it does not tell), ``blocks`` the interpreter's.
    """

    seconds: float
    requests: int
    resident: int
    bytes: int
    blocks: int


class OwnServer:
    """The process of the server that is tested."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.url = url
        self._process = process
        self._watched = psutil.Process(process.pid)

    def ask(self, question: str) -> dict:
        """What ``soak_server.py`` answers."""
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def memory(self, seconds: float, requests: int) -> Memory:
        resident = self._watched.memory_info().rss
        return Memory(seconds=seconds, requests=requests, resident=resident, **self.ask("count"))


@contextmanager
def own_server(*options: str) -> Iterator[OwnServer]:
    """``flyweight serve demo`` until the block ends."""
    script = Path(__file__).with_name("soak_server.py")
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), "serve", "demo", "--port", "0", "--api-key", KEY, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            deadline = time.monotonic() + 120
            while "serving on " not in (said := os.pread(log.fileno(), 1 << 16, 0).decode()):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the server did not start: {said[-500:]}")
                time.sleep(0.05)
            yield OwnServer(process, said.split("serving on ", 1)[1].split("\n", 1)[0])
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def text(random_: random.Random, words: int) -> str:
    return " ".join(random_.choice(WORDS) for _ in range(words))


def body_of(kind: str, random_: random.Random) -> dict:
    words = random_.choice((3, 10, 40, 120))
    body = {
        "messages": [{"role": "user", "content": text(random_, words)}],
        "max_tokens": random_.choice((1, 8, 32, 96)),
    }
    if kind in ("stream", "leave", "slow"):
        body["stream"] = True
    if kind == "leave":
        body |= {"max_tokens": 200, "ignore_eos": True}
    if kind == "grammar":
        bad = random_.choice(("[", "(a+)+$", "(" * 300))
        body["structured_outputs"] = {"regex": bad}
    if kind == "schema":
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    if kind == "long":
        body["messages"][0]["content"] = text(random_, 5000)
    if kind == "tools":
        function = {"name": "find", "parameters": {"type": "object", "properties": {"name": {"type": "string"}}}}
        body["tools"] = [{"type": "function", "function": function}]
    if kind == "bad":
        body["temperature"] = -1
    if kind == "samples":
        body |= {"n": 3, "temperature": 1.0}
    return body


KINDS = {
    "plain": 5, "stream": 5, "leave": 2, "slow": 1, "grammar": 1, "schema": 1, "long": 1, "tools": 1, "bad": 1,
    "samples": 1,
}  # fmt: skip


async def one(client: httpx.AsyncClient, kind: str, random_: random.Random, tally: Tally) -> None:
    """Send one request and note what it got; anything but an answer or an error object is broken."""
    began = time.monotonic()
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body_of(kind, random_)) as answer:
            status = answer.status_code
            if status != 200:
                error = json.loads(await answer.aread())["error"]
                if status >= 500 and not (status == 503 and "retry-after" in answer.headers):
                    tally.broken.append(f"{kind}: {status} {error['message']}")
                tally.outcomes[f"{kind} {status}"] += 1
                return
            if kind == "leave":
                async for _ in answer.aiter_bytes():
                    if random_.random() < 0.3:
                        tally.outcomes["leave left"] += 1
                        return
            if kind in ("stream", "leave", "slow"):
                last = ""
                async for line in answer.aiter_lines():
                    last = line or last
                    if kind == "slow":
                        await asyncio.sleep(0.02)
                if last != "data: [DONE]":
                    tally.broken.append(f"{kind}: a stream ended with {last[:80]!r}")
            else:
                choices = json.loads(await answer.aread())["choices"]
                if not all(choice["finish_reason"] in ("stop", "length", "tool_calls") for choice in choices):
                    tally.broken.append(f"{kind}: {choices}")
            tally.outcomes[f"{kind} 200"] += 1
            if kind != "slow":
                tally.accepted_seconds.append(time.monotonic() - began)
    except (httpx.HTTPError, ValueError, KeyError) as error:
        tally.broken.append(f"{kind}: {type(error).__name__} {error}")


async def sustainable(client: httpx.AsyncClient, seconds: float) -> float:
    """Requests a second of a fixed number of clients that wait for their answers."""
    tally, ends = Tally(), time.monotonic() + seconds

    async def work(seed: int) -> None:
        random_ = random.Random(seed)
        while time.monotonic() < ends:
            await one(client, pick(random_), random_, tally)

    began = time.monotonic()
    await asyncio.gather(*(work(seed) for seed in range(CLIENTS)))
    return sum(tally.outcomes.values()) / (time.monotonic() - began)


def pick(random_: random.Random) -> str:
    return random_.choices(list(KINDS), list(KINDS.values()))[0]


async def overload(client: httpx.AsyncClient, server: OwnServer, rate: float, seconds: float, tally: Tally) -> None:
    """Poisson arrivals; nobody waits for anybody."""
    random_ = random.Random(1)
    tasks: set[asyncio.Task[None]] = set()
    began = next_memory = time.monotonic()
    arrival = began
    number = 0
    while time.monotonic() - began < seconds:
        arrival += random_.expovariate(rate)
        await asyncio.sleep(max(0.0, arrival - time.monotonic()))
        number += 1
        task = asyncio.create_task(one(client, pick(random_), random.Random(number), tally))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if time.monotonic() >= next_memory:
            tally.memory.append(await asyncio.to_thread(server.memory, time.monotonic() - began, number))
            next_memory += max(1.0, seconds / 120)
    await asyncio.gather(*tasks)


def slope(points: list[tuple[float, float]]) -> tuple[float, float]:
    """The slope by least squares over the last two thirds, and the half width of its 95 % interval.

    Neighbouring samples depend on one another, which would make the interval too narrow: the line goes through the
    means of a few long parts.
    """
    points = points[len(points) // 3 :]
    size = len(points) // PARTS
    if size < 2:
        return 0.0, math.inf
    parts = [points[len(points) - size * (number + 1) : len(points) - size * number] for number in range(PARTS)]
    xs = [statistics.mean(x for x, _ in part) for part in parts]
    ys = [statistics.mean(y for _, y in part) for part in parts]
    found = statistics.linear_regression(xs, ys)
    left = [y - found.intercept - found.slope * x for x, y in zip(xs, ys, strict=True)]
    spread = sum((x - statistics.mean(xs)) ** 2 for x in xs)
    return found.slope, STUDENT_95 * math.sqrt(sum(one**2 for one in left) / (PARTS - 2) / spread)


def judge_memory(memory: list[Memory], seconds: float) -> tuple[dict, list[str]]:
    """Slopes with their intervals, and what is wrong with them."""
    minute, minute_half = slope([(one.seconds / 60, one.resident / 2**20) for one in memory])
    blocks, blocks_half = slope([(one.requests, one.blocks) for one in memory])
    used, used_half = slope([(one.requests, one.bytes) for one in memory])
    sign = 1 if seconds >= SECONDS_THAT_TELL else -1
    faults = [
        f"the server keeps {kept:.2f} ± {half:.2f} {what} of a request; {allowed:g} are allowed"
        for what, kept, half, allowed in (
            ("bytes", used, used_half, FLAT_BYTES),
            ("blocks of the interpreter", blocks, blocks_half, FLAT_BLOCKS),
        )
        if kept + sign * half > allowed
    ]
    thirds = [memory[len(memory) * third // 3 : len(memory) * (third + 1) // 3] for third in range(3)]
    _, middle, last = (max((one.resident for one in third), default=0) for third in thirds)
    if seconds >= SECONDS_THAT_TELL and last - middle > MOST_RISE:
        faults.append(f"resident memory rose from {middle} to {last} bytes; {MOST_RISE} more are allowed")
    figures = {
        "bytes_of_a_request": [round(used, 2), round(used_half, 2)],
        "interpreter_blocks_of_a_request": [round(blocks, 4), round(blocks_half, 4)],
        "resident_mib_a_minute": [round(minute, 3), round(minute_half, 3)],
        "resident_rise_mib": round((last - middle) / 2**20, 2),
        "resident_mib": [(round(one.seconds), round(one.resident / 2**20, 1)) for one in memory],
        "in_use_mib": [(round(one.seconds), round(one.bytes / 2**20, 1)) for one in memory],
    }
    return figures, faults


def soak(seconds: float) -> dict:
    """Run all of it; figures and ``faults``, a list that must be empty."""
    limits = ("--queue-seconds", f"{QUEUE_SECONDS:g}", "--queued-requests", "64")
    tally = Tally()
    with own_server(*limits, "--requests-per-key", "2048", "--connections", "4096") as server:

        async def run() -> float:
            pool = httpx.Limits(max_connections=None, max_keepalive_connections=64)
            headers = {"Authorization": f"Bearer {KEY}"}
            async with httpx.AsyncClient(base_url=server.url, limits=pool, headers=headers, timeout=120) as client:
                measured = await sustainable(client, max(2.0, min(30.0, seconds / 10)))
                await overload(client, server, 2 * measured, seconds, tally)
                await emptied(client)
                health = await client.get("/health")
                if health.status_code != 200:
                    tally.broken.append(f"/health: {health.text}")
            return measured

        measured = asyncio.run(run())
        faults = tally.broken[:20]
        checked = server.ask("check")
        faults += checked["faults"]
        if checked["held"]:
            faults.append(f"{checked['held']} blocks are held although nothing runs")
    memory, wrong = judge_memory(tally.memory, seconds)
    faults += wrong
    accepted = sorted(tally.accepted_seconds)
    bound = QUEUE_SECONDS + 20.0
    p99 = accepted[int(0.99 * (len(accepted) - 1))] if accepted else math.inf
    if p99 > bound:
        faults.append(f"p99 of accepted requests is {p99:.1f} s; the bound is {bound:g} s")
    return {
        "seconds": seconds,
        "sustainable_per_second": round(measured, 2),
        "requests": sum(tally.outcomes.values()) + len(tally.broken),
        "outcomes": dict(sorted(tally.outcomes.items())),
        "p50_seconds": round(accepted[len(accepted) // 2], 3) if accepted else None,
        "p99_seconds": round(p99, 3),
        "p99_bound_seconds": bound,
        "memory": memory,
        "load_average": os.getloadavg(),
        "faults": faults,
    }


async def emptied(client: httpx.AsyncClient) -> None:
    """Wait until nothing runs and nothing waits, for 20 seconds at most."""
    names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        lines = (await client.get("/metrics")).text.splitlines()
        if not any(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(names)):
            return
        await asyncio.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description="Soak test of the server")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--json")
    options = parser.parse_args()
    report = soak(options.seconds)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    for name, value in report.items():
        print(f"{name}: {value}")
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
