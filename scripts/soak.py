"""Ten minutes of everything at once, at twice what the server can do: does it keep its promises?

    python scripts/soak.py [--seconds 600] [--json FILE]

A server of the demo model runs in this process, on the loopback address. First the sustainable rate is measured with
a fixed number of clients; then requests arrive at twice that rate: prompts of mixed lengths, streams that are left,
streams that are read slowly, broken grammars, prompts that are too long, tools, and bad bodies. Every request must get
an answer or an error; at the end no block may be held, ``check_integrity`` must be clean, memory must not have grown,
and the 99th percentile of accepted requests must be inside the bound that follows from the queue's limits. Exit code 1
where one of it fails.
"""

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import psutil

from flyweight import load
from flyweight.demo_model import model_path
from flyweight.serving.limits import ServerLimits
from flyweight.serving.options import ServeOptions
from flyweight.serving.start import run_server

CLIENTS = 8
QUEUE_SECONDS = 10.0
TEXT = "the gate guild home job of Falk Iveson Stanto works baker town lives owner number add two and"
WORDS = TEXT.split()
KEY = "soak-key-soak-key"


@dataclass(kw_only=True)
class Tally:
    """What became of requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    accepted_seconds: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)  # (seconds, MiB)


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


async def overload(client: httpx.AsyncClient, rate: float, seconds: float, tally: Tally) -> None:
    """Poisson arrivals; nobody waits for anybody."""
    random_, process = random.Random(1), psutil.Process()
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
            tally.memory.append((time.monotonic() - began, process.memory_info().rss / 2**20))
            next_memory += max(1.0, seconds / 60)
    await asyncio.gather(*tasks)


def slope(points: list[tuple[float, float]]) -> tuple[float, float]:
    """MiB a minute by least squares over the last two thirds, and its 95 % half width."""
    points = points[len(points) // 3 :]
    if len(points) < 3:
        return 0.0, math.inf
    xs, ys = [x / 60 for x, _ in points], [y for _, y in points]
    found = statistics.linear_regression(xs, ys)
    left = [y - found.intercept - found.slope * x for x, y in zip(xs, ys, strict=True)]
    spread = sum((x - statistics.mean(xs)) ** 2 for x in xs)
    return found.slope, 1.96 * math.sqrt(sum(one**2 for one in left) / (len(xs) - 2) / spread)


def soak(seconds: float, *, measured_for: float | None = None) -> dict:
    """Run all of it; figures and ``faults``, a list that must be empty."""
    limits = ServerLimits(queue_seconds=QUEUE_SECONDS, queued_requests=64, requests_per_key=2048, connections=4096)
    listening, servers, loops = threading.Event(), [], []

    def on_listening(url: str, server: object) -> None:
        servers.append((url, server))
        loops.append(asyncio.get_running_loop())
        listening.set()

    options = ServeOptions(port=0, api_key=(KEY,))
    thread = threading.Thread(
        target=run_server, args=({"demo": load(model_path())}, options, limits), kwargs={"on_listening": on_listening}
    )
    thread.start()
    if not listening.wait(60):
        raise SystemExit("the server did not start")
    url, server = servers[0]
    services = server.state_of_server.services
    service = next(iter(services.values()))
    tally = Tally()

    async def run() -> float:
        pool = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=url, limits=pool, headers=headers, timeout=120) as client:
            measured = await sustainable(client, measured_for or max(2.0, min(30.0, seconds / 10)))
            await overload(client, 2 * measured, seconds, tally)
            health = await client.get("/health")
            if health.status_code != 200:
                tally.broken.append(f"/health: {health.text}")
        return measured

    measured = asyncio.run(run())
    deadline = time.monotonic() + 20
    while service.metrics.running + service.metrics.waiting and time.monotonic() < deadline:
        time.sleep(0.05)
    faults = tally.broken[:20]
    try:
        service._worker.run(lambda engine: engine.check_integrity()).result(20)
    except Exception as error:  # noqa: BLE001 - whatever it says is the finding
        faults.append(f"check_integrity: {error}")
    held = service._worker.run(lambda engine: engine.metrics().held_blocks).result(20)
    if held:
        faults.append(f"{held} blocks are held although nothing runs")
    loops[0].call_soon_threadsafe(server.end)
    thread.join(60)
    growth, half = slope(tally.memory)
    if growth - half > 1.0 and seconds >= 300:
        faults.append(f"memory grows by {growth:.2f} ± {half:.2f} MiB a minute")
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
        "memory_mib_per_minute": [round(growth, 3), round(half, 3)],
        "memory_mib": [(round(at), round(mib, 1)) for at, mib in tally.memory],
        "load_average": os.getloadavg(),
        "faults": faults,
    }


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
