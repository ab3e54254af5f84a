"""The journal of a job: what is finished, one line per unit, so that a killed job goes on where it was.

A line is appended and flushed to the disk only after everything it names is there; a torn last line is as if it had
never been. It does not know what units are.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from flyweight.errors import CheckpointError, UsageError

JOURNAL_FILE = "journal.jsonl"
READ_BYTES = 8 << 20


class Journal:
    """The journal in ``folder``. Use :meth:`open`; :meth:`close` when done. One process at a time may hold it."""

    def __init__(self, path: Path, descriptor: int, entries: list[dict[str, Any]]) -> None:
        self.path = path
        self.entries = entries
        self._descriptor = descriptor

    @classmethod
    def open(cls, folder: Path, job: Mapping[str, Any], *, remedy: str) -> Self:
        """Open the journal of ``job``, making it where there is none; ``entries`` are the units already finished.

        Raises:
            UsageError: when the folder holds another job (naming what differs; ``remedy`` ends the message), or
                another process works on it.
        """
        path = folder / JOURNAL_FILE
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(f"{folder} is being written by another process; wait for it") from None
            lines = _whole_lines(path, descriptor)
            journal = cls(path, descriptor, lines[1:])
            if not lines:
                journal._append({"job": dict(job)})
            else:
                _check_same_job(folder, lines[0].get("job", {}), job, remedy)
        except BaseException:
            os.close(descriptor)
            raise
        return journal

    def add(self, entry: Mapping[str, Any]) -> None:
        """Append one finished unit; on the disk when this returns."""
        self._append(dict(entry))
        self.entries.append(dict(entry))

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _append(self, entry: dict[str, Any]) -> None:
        data = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)


def _whole_lines(path: Path, descriptor: int) -> list[dict[str, Any]]:
    """The complete lines; a torn tail is cut off."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.ftruncate(descriptor, len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove the folder {path.parent} and start again") from None


def _check_same_job(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], remedy: str) -> None:
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        raise UsageError(
            f"{folder} holds the unfinished work of another job (another {', '.join(differing)}); {remedy}"
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()
