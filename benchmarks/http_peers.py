"""Servers of one model shape under the same load over HTTP: this one beside llama-server, OpenVINO GenAI and vLLM.

    python benchmarks/http_peers.py MODEL --tokenizer DIR [--llama-server PROGRAM:GGUF] [--openvino PYTHON:DIR]
        [--vllm PYTHON:DIR] [--streams 8,16] [--input-tokens 128] [--output-tokens 32] [--rounds 3] [--lock FILE]

Every server is started once and stopped (SIGSTOP) while others are measured. In each round they take turns, in another
order each time, on the same prompts: random token ids, new in each round, so that no prefix cache finds anything. The
load is ``flyweight bench load``'s closed loop, on the same cores, greedy, with answers of the full length; a server
whose answers have another number of tokens is not compared. ``--lock`` is held while servers start and again for each
round, where several measurements take turns on one machine.
"""

import argparse
import contextlib
import datetime as dt
import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flyweight.bench.load import LoadOptions, measure_load
from flyweight.bench.peers.llama_server import free_port
from flyweight.bench.peers.processes import peak_bytes
from flyweight.bench.statistics import paired_ratio
from flyweight.machine import Machine

Figures = dict[str, float]
OURS = "flyweight"
SECONDS_TO_START = 900
TOLERANCE = 0.02  # of the tokens that were asked for
ADAPTER = Path(__file__).with_name("peers") / "openvino_server.py"


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How a server is started, and what of the load it needs said in its own words."""

    command: Sequence[str]
    environment: Mapping[str, str]
    extra_body: str = "{}"


class RunningServer:
    """A server in a process group of its own."""

    def __init__(self, name: str, launch: Launch, port: int, log: Path) -> None:
        self.name, self.extra_body, self._log = name, launch.extra_body, log
        self.url = f"http://127.0.0.1:{port}"
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                list(launch.command),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env={**os.environ, **launch.environment},
                process_group=0,
            )
        self.is_stopped = False

    def wait(self) -> None:
        """Until it lists its model and answers."""
        end = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/v1/models", timeout=5) as answer:
                    if json.load(answer)["data"]:
                        return
            except (OSError, urllib.error.HTTPError, ValueError, KeyError):
                pass
            time.sleep(0.2)
        tail = self._log.read_text(errors="replace").splitlines()[-15:]
        raise SystemExit("\n".join([f"{self.name} does not start; the end of its log:", *tail]))

    def signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)
        self.is_stopped = number == signal.SIGSTOP

    def peak_bytes(self) -> float:
        """The sum over its processes of the most memory that each had; what they share counts in each."""
        group = self._process.pid
        found = 0.0
        for one in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getpgid(int(one.name)) == group:
                    found += peak_bytes(int(one.name))
        return found

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self._process.wait()


def launches(arguments: argparse.Namespace, ports: Mapping[str, int]) -> dict[str, Launch]:
    """The servers that the command line names."""
    threads = str(arguments.threads)
    most = max(arguments.streams)
    slot = -(-(arguments.input_tokens + arguments.output_tokens + 16) // 256) * 256
    found = {
        OURS: Launch(
            command=[
                *(sys.executable, "-m", "flyweight", "serve", str(arguments.model), "--port", str(ports[OURS])),
                *("--compute", arguments.compute, "--head", arguments.head, "--cache-tokens", str(most * slot)),
                "--no-request-log",
            ],
            environment={"FLYWEIGHT_THREADS": threads},
        )
    }
    if arguments.llama_server:
        program, model = arguments.llama_server
        found["llama-server"] = Launch(
            command=[
                *(program, "-m", model, "--port", str(ports["llama-server"]), "-t", threads, "-tb", threads),
                *("-np", str(most), "-c", str(most * slot), "-cb", "-fa", "on", "--cache-ram", "0", "--no-webui"),
            ],
            environment={},
            # The cheapest greedy sampler that it has; by default it sorts the vocabulary more than once.
            extra_body='{"samplers": ["top_k"], "top_k": 1, "cache_prompt": false}',
        )
    if arguments.openvino:
        program, model = arguments.openvino
        found["openvino"] = Launch(
            command=[program, str(ADAPTER), model, "--port", str(ports["openvino"]), "--threads", threads],
            environment={},
        )
    if arguments.vllm:
        program, model = arguments.vllm
        found["vllm"] = Launch(
            command=[
                *(program, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"),
                *("--port", str(ports["vllm"]), "--model", model, "--served-model-name", "vllm"),
                *("--dtype", arguments.vllm_dtype, "--max-model-len", str(slot), "--max-num-seqs", str(most)),
                *("--disable-uvicorn-access-log",),
            ],
            environment={
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": f"0-{arguments.threads - 1}",
                "OMP_NUM_THREADS": threads,
                "HF_HUB_OFFLINE": "1",
                "VLLM_NO_USAGE_STATS": "1",
            },
        )
    return found


def measure(server: RunningServer, arguments: argparse.Namespace, streams: int, seed: int, *, warm: bool) -> Figures:
    """One run of the load. Prompts follow from the seed alone: every server gets the same."""
    inputs, outputs = (arguments.input_tokens, arguments.output_tokens) if not warm else (32, 4)
    requests = streams * arguments.requests_per_stream if not warm else streams
    options = LoadOptions(
        concurrency=(streams,),
        requests=requests,
        warmup=0,
        prompts="ids",
        tokenizer=arguments.tokenizer,
        input_tokens=str(inputs),
        output_tokens=str(outputs),
        extra_body=server.extra_body,
        seed=seed,
    )
    server.signal(signal.SIGCONT)
    report = measure_load(server.url, options)
    server.signal(signal.SIGSTOP)
    figures = report.stages[0].figures
    tokens, wanted = figures.output_tokens or 0, requests * outputs
    if figures.completed != requests or abs(tokens - wanted) > TOLERANCE * wanted:
        raise SystemExit(
            f"{server.name}: {figures.completed} of {requests} answers, {tokens} tokens of {wanted}; "
            f"{dict(figures.failures)}: not comparable"
        )
    assert figures.whole.output_tokens is not None
    ttft, tpot = figures.sent["ttft"], figures.sent["tpot"]
    return {
        "output tokens/s": figures.whole.output_tokens,
        "TTFT p50, s": ttft.p50,
        "TTFT p95, s": ttft.p95,
        "TPOT p50, ms": 1e3 * tpot.p50,
        "TPOT p95, ms": 1e3 * tpot.p95,
        "client CPU, of a core": report.stages[0].recording.client.cpu_share,
    }


@contextlib.contextmanager
def held(lock: Path | None) -> Iterator[None]:
    """While other measurements wait."""
    if lock is None:
        yield
        return
    with lock.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def program_and_model(text: str) -> tuple[str, str]:
    program, _, model = text.partition(":")
    if not Path(program).exists() or not Path(model).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is no PROGRAM:MODEL of two paths that exist")
    return program, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder; for the size of the vocabulary")
    parser.add_argument("--head", default="int8", choices=["as-stored", "int8", "int6", "int4"], help="of our server")
    parser.add_argument("--compute", default="int8", choices=["auto", "bfloat16", "int8"], help="of our server")
    for name in ("llama-server", "openvino", "vllm"):
        parser.add_argument(f"--{name}", type=program_and_model, metavar="PROGRAM:MODEL")
    parser.add_argument("--vllm-dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--streams", type=lambda text: [int(one) for one in text.split(",")], default=[8, 16])
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--requests-per-stream", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lock", type=Path)
    arguments = parser.parse_args()
    ports = {name: free_port() for name in (OURS, "llama-server", "openvino", "vllm")}
    print(f"{Machine.detect().describe()}; {dt.date.today()}; {' '.join(sys.argv)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that no server is left behind
    servers: list[RunningServer] = []
    found: dict[int, dict[str, list[Figures]]] = {streams: {} for streams in arguments.streams}
    with tempfile.TemporaryDirectory() as folder:
        try:
            with held(arguments.lock):
                for name, launch in launches(arguments, ports).items():
                    began = time.monotonic()
                    server = RunningServer(name, launch, ports[name], Path(folder) / f"{name}.log")
                    servers.append(server)
                    server.wait()
                    measure(server, arguments, max(arguments.streams), 1, warm=True)
                    seconds = time.monotonic() - began
                    print(f"{name} ready after {seconds:.0f} s: {' '.join(launch.command)}", flush=True)
            for number in range(arguments.rounds):
                shift = number % len(servers)
                with held(arguments.lock):
                    for streams in arguments.streams:
                        for server in [*servers[shift:], *servers[:shift]]:
                            figures = measure(server, arguments, streams, 100 * number + streams, warm=False)
                            found[streams].setdefault(server.name, []).append(figures)
                            line = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
                            print(f"round {number}, {streams} streams, {server.name}: {line}", flush=True)
            peaks = {server.name: server.peak_bytes() for server in servers}
        finally:
            for server in servers:
                server.close()
    for streams, rounds in found.items():
        show(streams, rounds)
    print("peak memory, GB:", ", ".join(f"{name} {peak / 1e9:.2f}" for name, peak in peaks.items()))


def show(streams: int, rounds: Mapping[str, Sequence[Figures]]) -> None:
    """Medians of each server, and our figure over the peer's, pair by pair."""
    print(f"{streams} streams")
    for key in rounds[OURS][0]:
        for name, figures in rounds.items():
            values = [one[key] for one in figures]
            line = f"{key:16} {name:13} {statistics.median(values):8.4g} [{min(values):.4g}, {max(values):.4g}]"
            if name != OURS:
                ratio = paired_ratio([one[key] for one in rounds[OURS]], values)
                line += (
                    f"  ours over it {ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] covers {ratio.coverage:.0%}"
                )
            print(line)


if __name__ == "__main__":
    main()
