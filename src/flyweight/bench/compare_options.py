"""Options of a comparison. Nothing is measured here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flyweight.bench.peers import PEERS, Peer
from flyweight.bench.tasks import USUAL_TASKS, find_task
from flyweight.errors import UsageError
from flyweight.kernels import KVDtype
from flyweight.runtime.prepared import HeadChoice, ModelCompute


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions:
    """What is measured and how often.

    Raises:
        UsageError: a value is out of range or an unknown name.
    """

    tasks: tuple[str, ...] = USUAL_TASKS
    """Which tasks: depth-0, depth-4096, depth-32768, streams-8, streams-16, start."""

    rounds: int = 5
    """How often each engine does each task, in turn; 6 or more give intervals of 95 %."""

    threads: int | None = None
    """Threads of every engine; the default is the number of usable CPUs."""

    compute: ModelCompute = "int8"
    """What our linear layers compute in."""

    kv_dtype: KVDtype = "bfloat16"
    """How our keys and values are stored."""

    head: HeadChoice = "as-stored"
    """Our output head: as it is stored, or rounded to int8, int6 or int4 (peers round theirs to 6 or 8 bits)."""

    def __post_init__(self) -> None:
        for name in self.tasks:
            find_task(name)
        if len(set(self.tasks)) < len(self.tasks):
            raise UsageError(f"tasks {', '.join(self.tasks)} name one twice; name each once")
        if not self.tasks:
            raise UsageError("no task is named; give at least one")
        if self.rounds < 1:
            raise UsageError(f"rounds={self.rounds} is not allowed; choose 1 or more")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads={self.threads} is not allowed; choose 1 or more")


def open_peers(texts: Sequence[str], taken: Sequence[str] = ()) -> dict[str, Peer]:
    """The peers of ``NAME=PROGRAM:MODEL`` texts, by their labels; a name that is ``taken`` gets a number.

    Raises:
        UsageError: a text of another form, an unknown name, or a program or model that does not exist.
    """
    peers: dict[str, Peer] = {}
    for text in texts:
        name, _, rest = text.partition("=")
        program, _, model = rest.rpartition(":")
        if not (name and program and model):
            raise UsageError(f"peer {text!r} cannot be read; write NAME=PROGRAM:MODEL, such as {EXAMPLE}")
        opener = PEERS[name]
        for what, path in (("program", program), ("model", model)):
            if not Path(path).exists():
                raise UsageError(f"the {what} {path} of peer {name} does not exist")
        same = sum(label == name or label.startswith(f"{name} (") for label in (*taken, *peers))
        peers[name if not same else f"{name} ({same + 1})"] = opener(Path(program).absolute(), Path(model).absolute())
    return peers


EXAMPLE = "llama.cpp=build/bin/llama-bench:model-q4_0.gguf"
