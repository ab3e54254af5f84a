"""vLLM on a CPU: ``--peer vllm=PYTHON:FOLDER``, a checkpoint run by the interpreter of its environment."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flyweight.bench.peers.base import PEERS, Session, Setting
from flyweight.bench.peers.worker import PROTOCOL, Worker, open_worker
from flyweight.bench.tasks import Task

STEP_TOKENS = 2048


@PEERS.add("vllm")
@dataclass(frozen=True, slots=True)
class Vllm:
    """The V1 engine in one process, compiled, on a compressed-tensors checkpoint."""

    program: Path
    model: Path
    protocol: str = f"vLLM, {PROTOCOL}"

    def open(self, task: Task, setting: Setting) -> Session:
        options = {
            "model": str(self.model),
            "threads": setting.threads,
            "cache_gigabytes": 1 - (-task.cache_tokens * setting.kv_bytes_per_token // 10**9),
            "context": min(setting.context, task.cache_tokens),
            "step_tokens": STEP_TOKENS,
            "dtype": "bfloat16",
            "eager": False,
        }
        log = setting.folder / "vllm.log"
        start = partial(Worker, self.program, "vllm_worker", options, log=log, environment={})
        return open_worker(start, task)
