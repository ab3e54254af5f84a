"""The files of a batch: an input of one JSON object per line, the record of what is finished, the output in order.

While a batch runs, finished lines are appended to ``OUT.partial`` in the order in which they come, each flushed to the
disk within seconds; a rerun goes on after them, and a last line that was cut short is dropped. At the end they are put
in the order of the input and renamed to OUT. It knows neither what a line asks nor how it is answered.
"""

import hashlib
import json
import os
import time
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from flyweight.errors import UsageError

SYNC_SECONDS = 5.0
RECORD_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class InputLine:
    """A line that is not blank: ``number`` counts all lines from 1; ``text`` is None for one that was too long."""

    number: int
    text: bytes | None
    size: int


def read_lines(path: Path, longest: int) -> Iterator[InputLine]:
    """The lines of a file, none of which takes more than ``longest`` bytes of memory; blank ones are left out."""
    with path.open("rb") as file:
        number = 0
        while first := file.readline(longest + 1):
            number += 1
            size = len(first)
            if size > longest and not first.endswith(b"\n"):
                while rest := file.readline(1 << 20):
                    size += len(rest)
                    if rest.endswith(b"\n"):
                        break
                yield InputLine(number=number, text=None, size=size)
            elif first.strip():
                yield InputLine(number=number, text=first, size=size)


def hash_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class BatchRecord:
    """``OUT.partial``: a first line that says which job it belongs to, then one line for each finished one.

    Args:
        output: OUT, which must not exist.
        job: what must be the same for a rerun to go on: hash of the input, model, options.

    Raises:
        UsageError: when OUT exists, or the record belongs to another job.
    """

    def __init__(self, output: Path, job: Mapping[str, Any]) -> None:
        if output.exists():
            raise UsageError(f"{output} exists already; remove it or choose another name")
        if not output.parent.is_dir():
            raise UsageError(f"the folder {output.parent} does not exist; create it first")
        self.output = output
        self.path = output.with_name(output.name + ".partial")
        self._offsets: dict[int, int] = {}
        self.num_failed = 0
        self._head = {"version": RECORD_VERSION, **job}
        self._file = self._open()
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._file.closed:
            self._file.close()
            if not self._offsets:
                self.path.unlink()  # nothing was done: the next run may be of another job

    @property
    def finished(self) -> frozenset[int]:
        """Numbers of the lines that have their result."""
        return frozenset(self._offsets)

    def add(self, number: int, result: Mapping[str, Any]) -> None:
        """Keep the result of a line."""
        self._offsets[number] = self._file.seek(0, os.SEEK_END)
        self._file.write(_entry({"line": number, "result": result}))
        self._file.flush()
        self.num_failed += result["error"] is not None
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """See that all results are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def finish(self) -> None:
        """Write the results to OUT in the order of the input, and remove the record."""
        self.sync()
        temporary = self.output.with_name(self.output.name + ".sorting")
        with temporary.open("wb") as out:
            for number in array("q", sorted(self._offsets)):
                self._file.seek(self._offsets[number])
                out.write(_entry(json.loads(self._file.readline())["result"]))
            out.flush()
            os.fsync(out.fileno())
        temporary.rename(self.output)
        self._file.close()
        self.path.unlink()

    def _open(self) -> BinaryIO:
        if not self.path.exists():
            file = self.path.open("w+b")
            file.write(_entry(self._head))
            file.flush()
            return file
        file = self.path.open("r+b")
        head, end = file.readline(), 0
        if head.endswith(b"\n"):
            try:
                self._check_job(head)
            except UsageError:
                file.close()
                raise
            end = self._read_entries(file)
        file.truncate(end)
        file.seek(0, os.SEEK_END)
        if not end:
            file.write(_entry(self._head))
            file.flush()
        return file

    def _check_job(self, head: bytes) -> None:
        try:
            found = json.loads(head)
        except ValueError:
            found = None
        if found != self._head:
            different = [
                name for name, value in self._head.items() if not isinstance(found, dict) or found.get(name) != value
            ]
            raise UsageError(
                f"{self.path} holds results of another batch (different: {', '.join(different) or 'its version'}); "
                "remove it to begin anew, or give the same input, model and options to go on"
            )

    def _read_entries(self, file: BinaryIO) -> int:
        """Note what is finished; returns where the last whole entry ends."""
        end = file.tell()
        while (entry := file.readline()).endswith(b"\n"):
            try:
                read = json.loads(entry)
                number, failed = read["line"], read["result"]["error"] is not None
            except (ValueError, KeyError, TypeError):
                break  # damaged by the fall: this line and what follows are done again
            self._offsets[number] = end
            self.num_failed += failed
            end += len(entry)
        return end


def _entry(value: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can name and UTF-8 cannot
        return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"
