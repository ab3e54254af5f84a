"""Whether `flyweight bench load` and guidellm agree on one server: both in turn, with prompts alike, several rounds.

    python benchmarks/load_agreement.py URL --guidellm ENV/bin/guidellm --tokenizer DIR [--concurrency 8]

Each run gets prompts of its own, new ones of one length, so that no prefix cache helps. Each round runs both, the next
one in the other order; printed are the medians over rounds and the median ratio with its interval by order statistics.
With --rate the load is a constant open loop. Needs guidellm in an environment of its own; DIR is a tokenizer that
transformers can open.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from flyweight.bench.load.token_lengths import ByTokenizer
from flyweight.bench.statistics import paired_ratio
from flyweight.machine import Machine
from flyweight.tokenizer import Tokenizer

Figures = dict[str, float]


def write_prompts(path: Path, tokenizer: Tokenizer, count: int, arguments: argparse.Namespace, seed: int) -> None:
    generator, maker = np.random.default_rng(seed), ByTokenizer(tokenizer=tokenizer)
    out = arguments.output_tokens
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            prompt = maker.text(arguments.input_tokens, generator)
            stream.write(json.dumps({"prompt": prompt, "max_tokens": out, "output_tokens_count": out}) + "\n")


def run_own(prompts: Path, arguments: argparse.Namespace, folder: Path) -> Figures:
    out = folder / "own.json"
    load = ["--load", "constant", "--rate", str(arguments.rate)] if arguments.rate else []
    load += [] if arguments.rate else ["--concurrency", str(arguments.concurrency)]
    command = [
        *(sys.executable, "-m", "flyweight", "bench", "load", arguments.url, "--endpoint", arguments.endpoint),
        *("--prompts", "file", "--prompt-file", str(prompts), "--requests", str(arguments.requests), "--warmup", "0"),
        *(*load, "--output", str(out)),
    ]
    run(command)
    stage = json.loads(out.read_text())["stages"][0]
    keys = stage["vllm"]
    return {
        "requests answered": stage["figures"]["completed"],
        "output tokens": stage["figures"]["output_tokens"],
        "requests/s": keys["request_throughput"],
        "output tokens/s": keys["output_throughput"],
        "TTFT mean, ms": keys["mean_ttft_ms"],
        "TTFT p50, ms": keys["median_ttft_ms"],
        "TTFT p95, ms": keys["p95_ttft_ms"],
        "TPOT mean, ms": keys["mean_tpot_ms"],
        "TPOT p95, ms": keys["p95_tpot_ms"],
        "end to end mean, ms": keys["mean_e2el_ms"],
    }


def run_guidellm(prompts: Path, arguments: argparse.Namespace, folder: Path) -> Figures:
    out = folder / "guidellm.json"
    profile = f"kind=concurrent,streams={arguments.concurrency}"
    if arguments.rate:
        profile = f"kind=constant,rate={arguments.rate}"
    route = "/v1/completions" if arguments.endpoint == "completions" else "/v1/chat/completions"
    backend = f"kind=openai_http,target={arguments.url},request_format={route}"
    command = [
        *(arguments.guidellm, "run", "--backend", backend, "--profile", profile),
        *("--tokenizer", f"kind=huggingface_auto,model={arguments.tokenizer}"),
        *("--constraint", f"kind=max_requests,count={arguments.requests}", "--data", f"kind=json_file,path={prompts}"),
        *("--output", f"kind=json,path={out}", "--disable-console"),
    ]
    run(command, {"HF_HUB_OFFLINE": "1"})
    metrics: dict[str, Any] = json.loads(out.read_text())["benchmarks"][0]["metrics"]
    found = {name: metrics[name]["successful"] for name in metrics if "successful" in (metrics[name] or {})}
    return {
        "requests answered": found["request_latency"]["count"],
        "output tokens": round(found["output_token_count"]["total_sum"]),
        "requests/s": found["requests_per_second"]["mean"],
        "output tokens/s": found["output_tokens_per_second"]["mean"],
        "TTFT mean, ms": found["time_to_first_token_ms"]["mean"],
        "TTFT p50, ms": found["time_to_first_token_ms"]["median"],
        "TTFT p95, ms": found["time_to_first_token_ms"]["percentiles"]["p95"],
        # guidellm calls (last - first token) / (tokens - 1) inter-token latency.
        "TPOT mean, ms": found["inter_token_latency_ms"]["mean"],
        "TPOT p95, ms": found["inter_token_latency_ms"]["percentiles"]["p95"],
        "end to end mean, ms": found["request_latency"]["mean"] * 1e3,
    }


def run(command: list[str], more: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env={**os.environ, **(more or {})}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--guidellm", required=True)
    parser.add_argument("--tokenizer", required=True, type=Path)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--input-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--endpoint", choices=["completions", "chat"], default="completions")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.open(arguments.tokenizer)
    runners = {"flyweight": run_own, "guidellm": run_guidellm}
    rounds: dict[str, list[Figures]] = {name: [] for name in runners}
    print(Machine.detect().describe())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(-1, arguments.rounds):
            # New prompts for each run: a prefix cache must find nothing from the run before.
            for place, one in enumerate(runners if number % 2 else reversed(runners)):
                prompts = folder / "prompts.jsonl"
                write_prompts(prompts, tokenizer, arguments.requests, arguments, 2 * number + place + 10)
                figures = runners[one](prompts, arguments, folder)
                if number >= 0:  # the first round warms the server up
                    rounds[one].append(figures)
                print(f"round {number}: {one}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    print(f"{'':22}{'flyweight':>12}{'guidellm':>12}{'ratio':>8}  interval")
    for key in rounds["flyweight"][0]:
        own, other = ([one[key] for one in rounds[name]] for name in runners)
        ratio = paired_ratio(own, other)
        print(
            f"{key:22}{statistics.median(own):12.4g}{statistics.median(other):12.4g}{ratio.median:8.3f}  "
            f"[{ratio.low:.3f}, {ratio.high:.3f}] covers {ratio.coverage:.0%}"
        )


if __name__ == "__main__":
    main()
