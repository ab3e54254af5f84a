"""Processes of engines: started in a group of their own, stopped while others are measured, ended for certain."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from flyweight.errors import FlyweightError

LAST_LINES = 15
SECONDS_TO_END = 20


class PeerError(FlyweightError):
    """An engine did not start, or failed at what it was asked; the message carries the end of its log."""


class EngineProcess:
    """One process of an engine.

    It leads a process group of this session, so that it can be stopped with its children; and so that a group left
    stopped is woken and hung up by the system when this process dies.
    """

    def __init__(self, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
        self.command = tuple(command)
        self._log = log
        with log.open("ab") as stream:
            try:
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stream,
                    env={**os.environ, **environment},
                    process_group=0,
                    text=True,
                )
            except OSError as error:
                raise PeerError(f"{self.command[0]} cannot be started: {error.strerror}") from None

    def pause(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def error(self, what: str) -> PeerError:
        """An error that ends with the last lines of the log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        return PeerError("\n".join([f"{Path(self.command[0]).name}: {what}; the end of {self._log}:", *lines]))

    def close(self) -> float:
        """End the group; returns the process's ``peak_bytes`` as they were."""
        peak = peak_bytes(self.process.pid)
        if self.process.poll() is None:
            self.resume()
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        return peak


def peak_bytes(process_id: int) -> float:
    """The most memory that was ever resident in a process, mapped files included; 0 when it is gone.

    Not from ``wait4``: its figure begins with the memory of the process that forked.
    """
    try:
        status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024.0 * int(found[0]) if found else 0.0
