"""What a peer is to the comparison: something that can be opened for a task and then measured again and again.

A peer knows how its engine is started and asked; it does not know what it is compared with.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flyweight.bench.tasks import Prompts, Task
from flyweight.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What all engines of a comparison share.

    Attributes:
        threads: of the computation.
        context: tokens that a sequence may have.
        kv_bytes_per_token: bytes of one token's keys and values in 16 bits, to size caches that are given in bytes.
        folder: where logs go.
    """

    threads: int
    context: int
    kv_bytes_per_token: int
    folder: Path


class Session(Protocol):
    """An engine that is open for one task. Between measurements it may be paused: it then takes no processor time."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What the engine says of itself: version, settings, and the command it was started by."""
        ...

    def measure(self, prompts: Prompts) -> dict[str, float]:
        """Do the task once; figures by their names in ``tasks.FIGURES``."""
        ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> float:
        """End the engine's processes; returns the peak resident bytes of the largest."""
        ...


class Peer(Protocol):
    """An engine with its model."""

    @property
    def model(self) -> Path:
        """The file or folder it runs."""
        ...

    @property
    def protocol(self) -> str:
        """In words, how it is measured."""
        ...

    def open(self, task: Task, setting: Setting) -> Session:
        """Start what the task needs and get ready.

        Raises:
            PeerError: it does not start.
        """
        ...


Opener = Callable[[Path, Path], Peer]  # from the two sides of --peer NAME=PROGRAM:MODEL
PEERS: Registry[Opener] = Registry("peer")
