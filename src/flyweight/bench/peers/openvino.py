"""OpenVINO GenAI: ``--peer openvino=PYTHON:FOLDER``, an exported model run by the interpreter of its environment."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flyweight.bench.peers.base import PEERS, Session, Setting
from flyweight.bench.peers.worker import PROTOCOL, Worker, open_worker
from flyweight.bench.tasks import Task

STEP_TOKENS = 512


@PEERS.add("openvino")
@dataclass(frozen=True, slots=True)
class OpenVino:
    """The continuous batching pipeline on a folder with openvino_model.xml."""

    program: Path
    model: Path
    protocol: str = f"OpenVINO GenAI ContinuousBatchingPipeline, {PROTOCOL}"

    def open(self, task: Task, setting: Setting) -> Session:
        options = {
            "model": str(self.model),
            "threads": setting.threads,
            "cache_gigabytes": -(-task.cache_tokens * setting.kv_bytes_per_token // 10**9),
            "step_tokens": STEP_TOKENS,
            "kv_precision": "",
        }
        log = setting.folder / "openvino.log"
        start = partial(Worker, self.program, "openvino_worker", options, log=log, environment={})
        return open_worker(start, task)
