"""The original model's predictions on disk: every log-probability in two bytes, with a stated error.

A row is stored as the codes of ``largest logit - logit``, rounded to steps of at most 40/65535 nats. Decoding
errs by at most half a step e = 3.1e-4 nats per logit; by Hoeffding's lemma the decoded distribution lies within
e^2 / 2 = 4.7e-8 nats (KL) of the true one. Logits more than 40 nats below the largest are raised to that (their
probability is below 5e-18). What needs exact values (the target's log-likelihood and the top token) is kept
beside the codes unrounded.

Files lie under a key that hashes everything that decides them, and are written under a temporary name first.
This module does not know how predictions are made.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from flyweight.errors import IntegrityError
from flyweight.evaluation.distributions import RowStatistics, row_slices

Array = np.ndarray[Any, np.dtype[Any]]

LARGEST_CODE = 65535
RANGE_NATS = 40.0
LOGIT_ERROR = RANGE_NATS / LARGEST_CODE / 2
KL_ERROR = LOGIT_ERROR**2 / 2
STORAGE_VERSION = 1
ABANDONED_SECONDS = 86400  # a temporary folder this old belongs to a run that was killed


def stored_bytes(num_rows: int, vocab_size: int) -> int:
    """Bytes that the predictions of ``num_rows`` tokens take."""
    return num_rows * (2 * vocab_size + 4 + 8 + 4)


def encode_rows(logits: Array) -> tuple[Array, Array]:
    """Codes uint16 (rows, vocab) and steps float32 (rows,) of finite float32 logits (rows, vocab)."""
    codes = np.empty(logits.shape, np.uint16)
    steps = np.empty(len(logits), np.float32)
    for rows in row_slices(*logits.shape):
        below = logits[rows].max(axis=1, keepdims=True) - logits[rows]
        spread = np.clip(below.max(axis=1, keepdims=True), 1e-6, RANGE_NATS)
        step = (spread / LARGEST_CODE).astype(np.float32)
        codes[rows] = np.minimum(np.rint(below / step), LARGEST_CODE).astype(np.uint16)
        steps[rows] = step[:, 0]
    return codes, steps


def decode_rows(codes: Array, steps: Array) -> Array:
    """Logits float32 (rows, vocab), the largest of each row 0."""
    result: Array = codes.astype(np.float32)
    result *= -steps[:, None]
    return result


class StoredPredictions:
    """Predictions read back: exact :class:`RowStatistics`, and logits of any rows, mapped from disk."""

    def __init__(self, folder: Path, num_rows: int, vocab_size: int) -> None:
        self.statistics = RowStatistics(
            nll=np.fromfile(folder / "nll.f64", np.float64), top1=np.fromfile(folder / "top1.i32", np.int32)
        )
        self._steps: Array = np.fromfile(folder / "steps.f32", np.float32)
        self._codes: Array = np.memmap(folder / "codes.u16", np.uint16, "r", shape=(num_rows, vocab_size))

    def logits(self, start: int, stop: int) -> Array:
        return decode_rows(self._codes[start:stop], self._steps[start:stop])


class PredictionWriter:
    """Appends rows in order; see :meth:`PredictionCache.write`."""

    def __init__(self, files: dict[str, IO[bytes]]) -> None:
        self._files = files
        self.num_rows = 0

    def append(self, logits: Array, statistics: RowStatistics) -> None:
        codes, steps = encode_rows(logits)
        arrays = {"codes.u16": codes, "steps.f32": steps, "nll.f64": statistics.nll, "top1.i32": statistics.top1}
        for name, array in arrays.items():
            self._files[name].write(np.ascontiguousarray(array).data)
        self.num_rows += len(logits)


class PredictionCache:
    """A folder of stored predictions and answers, bounded in bytes: the least recently used give way."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder / "evaluation"
        self.limit_bytes = limit_bytes

    def refusal(self, num_rows: int, vocab_size: int) -> str | None:
        """Why predictions of this size cannot be stored, or None when they can."""
        needed = stored_bytes(num_rows, vocab_size)
        if needed > self.limit_bytes:
            return f"{needed} bytes would pass the cache limit of {self.limit_bytes}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return f"{self.folder} cannot be written: {error.strerror}"
        if not os.access(self.folder, os.W_OK):
            return f"{self.folder} cannot be written"
        free = shutil.disk_usage(self.folder).free
        if needed > 0.9 * free:
            return f"{needed} bytes would not fit on the disk of {self.folder} ({free} free)"
        return None

    def find(self, key: str, num_rows: int, vocab_size: int) -> StoredPredictions | None:
        """The predictions stored under ``key``, or None when there are none of this size."""
        folder = self.folder / key
        sizes = {"codes.u16": 2 * vocab_size, "steps.f32": 4, "nll.f64": 8, "top1.i32": 4}
        for name, row_bytes in sizes.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != num_rows * row_bytes:
                return None
        os.utime(folder)
        return StoredPredictions(folder, num_rows, vocab_size)

    @contextmanager
    def write(self, key: str, num_rows: int, vocab_size: int) -> Iterator[PredictionWriter]:
        """Store rows under ``key``; they appear there, whole, when the block ends without an error."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(stored_bytes(num_rows, vocab_size))
        names = ("codes.u16", "steps.f32", "nll.f64", "top1.i32")
        with self._filled(key) as folder:
            files: dict[str, IO[bytes]] = {name: (folder / name).open("wb") for name in names}
            try:
                writer = PredictionWriter(files)
                yield writer
            finally:
                for file in files.values():
                    file.close()
            if writer.num_rows != num_rows:
                raise IntegrityError(f"{writer.num_rows} rows written, {num_rows} announced")

    def find_answers(self, key: str) -> list[str] | None:
        """Answers stored under ``key``, or None."""
        path = self.folder / key / "answers.json"
        if not path.is_file():
            return None
        try:
            answers = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None
        os.utime(path.parent)
        return [str(answer) for answer in answers]

    def write_answers(self, key: str, answers: list[str]) -> None:
        """Store answers; a cache that cannot be written is done without."""
        if self.refusal(0, 0) is not None:
            return
        with self._filled(key) as folder:
            (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")

    @contextmanager
    def _filled(self, key: str) -> Iterator[Path]:
        """A temporary folder that takes the place of ``key`` when the block ends without an error."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".part-", dir=self.folder))
        try:
            yield temporary
            shutil.rmtree(self.folder / key, ignore_errors=True)
            try:
                temporary.rename(self.folder / key)
            except OSError:
                # Another run stored the same meanwhile; its files say the same.
                if not (self.folder / key).is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _make_room(self, needed: int) -> None:
        entries = [entry for folder in self.folder.iterdir() if (entry := _entry(folder)) is not None]
        total = sum(size for _, size, _ in entries)
        for _, size, folder in sorted(entries, key=lambda entry: entry[0]):
            if total + needed <= self.limit_bytes:
                return
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def _entry(folder: Path) -> tuple[float, int, Path] | None:
    """When a cache entry was last used, its bytes and its folder; None for what another run is filling or removing."""
    try:
        used = folder.stat().st_mtime
        size = sum(file.stat().st_size for file in folder.iterdir())
    except OSError:
        return None
    is_being_filled = folder.name.startswith(".part-") and time.time() - used < ABANDONED_SECONDS
    return None if is_being_filled else (used, size, folder)
