"""llama.cpp: ``--peer llama.cpp=PATH/llama-bench:MODEL.gguf``.

One stream is measured by llama-bench, a process per measurement; several streams and the start by the llama-server
that lies beside it. Both are the project's own tools.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.bench.peers.base import PEERS, Session, Setting
from flyweight.bench.peers.llama_server import ServerSession, ServerStart
from flyweight.bench.peers.processes import PeerError, peak_bytes
from flyweight.bench.tasks import OneStream, Prompts, Start, Task

POLL_SECONDS = 0.05


@PEERS.add("llama.cpp")
@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """llama-bench and llama-server on a GGUF file. The KV cache is f16, their default."""

    program: Path
    model: Path
    protocol: str = (
        "one stream: llama-bench, a process per measurement, its own clock, random tokens, no sampling; several "
        "streams: llama-server with a slot for each, token ids over HTTP on this machine, greedy, streamed, no prompt "
        "cache; start: llama-server from launch to the first token"
    )

    def open(self, task: Task, setting: Setting) -> Session:
        if isinstance(task, OneStream):
            return BenchSession(self.program, self.model, task, setting)
        server = self.program.with_name("llama-server")
        if not server.exists():
            raise PeerError(f"{server} does not exist; build it beside {self.program.name}")
        if isinstance(task, Start):
            return ServerStart(server, self.model, task, setting)
        return ServerSession(server, self.model, task, setting)


class BenchSession:
    """llama-bench, run anew for each measurement."""

    def __init__(self, program: Path, model: Path, task: OneStream, setting: Setting) -> None:
        self.command = bench_command(program, model, task, setting.threads)
        self.facts: Mapping[str, str] = {"command": " ".join(self.command)}
        self._task = task
        self._log = setting.folder / "llama-bench.log"
        self._peak = 0.0

    def measure(self, prompts: Prompts) -> dict[str, float]:
        """One run; its prompts are llama-bench's own random tokens."""
        with self._log.open("ab") as log:
            try:
                process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log, text=True)
            except OSError as error:
                raise PeerError(f"{self.command[0]} cannot be started: {error.strerror}") from None
            text = self._read(process)
        if process.returncode:
            raise PeerError(f"{' '.join(self.command)} ended with {process.returncode}; see {self._log}")
        records = json.loads(text)
        self.facts = {**bench_facts(records), "command": " ".join(self.command)}
        return bench_figures(records, self._task)

    def _read(self, process: subprocess.Popen[str]) -> str:
        """What the process prints until it ends; meanwhile its memory is watched."""
        with process:
            while True:
                try:
                    return process.communicate(timeout=POLL_SECONDS)[0]
                except subprocess.TimeoutExpired:
                    self._peak = max(self._peak, peak_bytes(process.pid))

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def close(self) -> float:
        return self._peak


def bench_command(program: Path, model: Path, task: OneStream, threads: int) -> list[str]:
    """llama-bench for one measurement of the task: prompt and generation at one depth, once each."""
    return [
        *(str(program), "-m", str(model), "-t", str(threads), "-r", "1", "-o", "json"),
        *("-p", str(task.prefill), "-n", str(task.decode), "-d", str(task.depth)),
        *("-fa", "1"),
    ]


def bench_figures(records: Sequence[Mapping[str, Any]], task: OneStream) -> dict[str, float]:
    """The speeds in llama-bench's JSON.

    Raises:
        PeerError: a test of the task is missing.
    """
    figures = {}
    for name, prompt, generated in (("prefill", task.prefill, 0), ("decode", 0, task.decode)):
        if not prompt + generated:
            continue
        wanted = (prompt, generated, task.depth)
        found = [one for one in records if (one["n_prompt"], one["n_gen"], one["n_depth"]) == wanted]
        if not found:
            raise PeerError(f"llama-bench did not report the test of {wanted} (prompt, generated, depth)")
        figures[name] = float(found[0]["avg_ts"])
    return figures


def bench_facts(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Version and settings in llama-bench's JSON."""
    first = records[0]
    return {
        "version": f"build {first['build_number']} ({first['build_commit']})",
        "settings": f"{first['model_type']}, {first['n_threads']} threads, batch {first['n_batch']}/{first['n_ubatch']}"
        f", K {first['type_k']}, V {first['type_v']}, flash attention {first['flash_attn']}",
    }
