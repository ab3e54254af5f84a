"""This engine: always the first side of a comparison, and ``--peer flyweight=PYTHON:FOLDER`` for another of its
environments or models."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from flyweight.bench.peers.base import PEERS, Session, Setting
from flyweight.bench.peers.worker import PROTOCOL, Worker, open_worker
from flyweight.bench.tasks import Task


@PEERS.add("flyweight")
@dataclass(frozen=True, slots=True)
class Flyweight:
    """``flyweight.load`` on a checkpoint's folder, in a process of its own."""

    program: Path
    model: Path
    compute: str = "int8"
    kv_dtype: str = "bfloat16"
    head: str = "as-stored"
    protocol: str = f"flyweight.load, {PROTOCOL}"

    @classmethod
    def of(cls, model: Path, *, compute: str, kv_dtype: str, head: str) -> Self:
        """This very package, by the interpreter that runs it."""
        return cls(Path(sys.executable), model, compute=compute, kv_dtype=kv_dtype, head=head)

    def open(self, task: Task, setting: Setting) -> Session:
        options = {
            "model": str(self.model),
            "compute": self.compute,
            "kv_dtype": self.kv_dtype,
            "head": self.head,
            "cache_tokens": task.cache_tokens,
        }
        environment = {"FLYWEIGHT_THREADS": str(setting.threads)}
        log = setting.folder / "flyweight.log"
        module = "flyweight_worker"
        return open_worker(partial(Worker, self.program, module, options, log=log, environment=environment), task)
