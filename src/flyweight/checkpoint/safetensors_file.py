"""Safetensors files on disk: opened with every claim checked, read lazily, written atomically.

``SafetensorsFile`` reads; ``write_safetensors`` writes arrays and tensors that still lie in other files, without
holding the latter in memory. It does not know what the tensors mean or how several files make a checkpoint.
"""

import errno
import mmap
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from flyweight.checkpoint.safetensors_header import (
    LENGTH_BYTES,
    TensorEntry,
    build_header,
    file_order,
    header_length,
    parse_header,
)
from flyweight.errors import CheckpointError, ResourceError, nearest

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

READ_BYTES = 1 << 20  # one pread; small enough to stay in the second-level cache while it is copied
CHUNK_BYTES = 8 << 20
PARTIAL_SUFFIX = ".partial"  # files under this name are unfinished and may be deleted
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class TensorSource(Protocol):
    """A tensor that can be written without being held: its bytes come in pieces, in C order."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def chunks(self) -> Iterator[Array]:
        """One-dimensional arrays of ``dtype`` that concatenate to the flattened tensor."""
        ...


class SafetensorsFile:
    """One safetensors file whose whole header has been checked. Safe to read from several threads.

    The file stays open (by descriptor) until the object is garbage, so that what was checked is what is read.

    Raises:
        CheckpointError: when the file is missing, unreadable, truncated, or its header lies.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be opened: {error.strerror}; check the path") from None
        self._close = weakref.finalize(self, os.close, self._descriptor)
        try:
            self.nbytes = os.fstat(self._descriptor).st_size
            source = str(self.path)
            length = header_length(os.pread(self._descriptor, LENGTH_BYTES, 0), self.nbytes, source)
            text = os.pread(self._descriptor, length, LENGTH_BYTES)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror}; it must be a file") from None
        header = parse_header(text, self.nbytes, source)
        self.metadata: Mapping[str, str] = header.metadata
        self._entries = {entry.name: entry for entry in header.entries}
        self._map: mmap.mmap | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names in the order in which their data lies."""
        return tuple(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._entry(name).dtype

    def tensor_bytes(self, name: str) -> int:
        return self._entry(name).nbytes

    def tensor(self, name: str) -> Array:
        """A read-only view of the mapped file: nothing is read until it is touched, and touched pages count as
        resident memory. (A copy where the file does not align the data to the dtype.)"""
        entry = self._entry(name)
        if entry.nbytes == 0:
            return np.empty(entry.shape, entry.dtype)
        if self._map is None:
            self._map = mmap.mmap(self._descriptor, self.nbytes, access=mmap.ACCESS_READ)
        flat = np.frombuffer(
            self._map, dtype=entry.dtype, count=entry.nbytes // entry.dtype.itemsize, offset=entry.begin
        )
        return (flat if flat.flags.aligned else flat.copy()).reshape(entry.shape)

    def read(self, name: str) -> Array:
        """A fresh copy, read without mapping: the memory is the caller's and is gone when the caller drops it.

        Raises:
            CheckpointError: when the file has become shorter since it was opened.
        """
        entry = self._entry(name)
        return self._read(entry, entry.begin, entry.end).reshape(entry.shape)

    def read_rows(self, name: str, start: int, stop: int) -> Array:
        """A fresh copy of ``tensor[start:stop]``.

        Raises:
            CheckpointError: when the tensor has no such rows.
        """
        entry = self._entry(name)
        rows = entry.shape[0] if entry.shape else 0
        if not 0 <= start <= stop <= rows:
            raise CheckpointError(f"rows {start} to {stop} of tensor {name!r} do not exist: it has {rows} rows")
        row_bytes = entry.nbytes // rows if rows else 0
        flat = self._read(entry, entry.begin + start * row_bytes, entry.begin + stop * row_bytes)
        return flat.reshape(stop - start, *entry.shape[1:])

    def chunks(self, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Array]:
        """The flattened tensor in fresh one-dimensional pieces of at most ``chunk_bytes``."""
        entry = self._entry(name)
        step = max(1, chunk_bytes // entry.dtype.itemsize) * entry.dtype.itemsize
        for begin in range(entry.begin, entry.end, step):
            yield self._read(entry, begin, min(begin + step, entry.end))

    def place(self, name: str) -> tuple[int, int]:
        """The descriptor of this file, which stays this object's own, and the byte at which a tensor begins."""
        return self._descriptor, self._entry(name).begin

    def lazy(self, name: str) -> "StoredTensor":
        """The tensor as something that can be written elsewhere without being held."""
        self._entry(name)
        return StoredTensor(file=self, name=name)

    def _entry(self, name: str) -> TensorEntry:
        if name not in self._entries:
            raise CheckpointError(f"{self.path} holds no tensor {name!r}{nearest(name, self._entries)}")
        return self._entries[name]

    def _read(self, entry: TensorEntry, begin: int, end: int) -> Array:
        """Bytes ``begin`` to ``end`` of the file as a flat array of the entry's dtype."""
        values = np.empty((end - begin) // entry.dtype.itemsize, entry.dtype)
        target = values.view(np.uint8).data
        position = begin
        while position < end:
            try:
                piece = os.pread(self._descriptor, min(READ_BYTES, end - position), position)
            except OSError as error:
                raise CheckpointError(
                    f"{self.path} cannot be read at byte {position}: {error.strerror}; check the disk"
                ) from None
            if not piece:
                raise CheckpointError(
                    f"{self.path} ended at byte {position} while tensor {entry.name!r} was read; it became shorter "
                    "after it was opened: download the shard again"
                )
            target[position - begin : position - begin + len(piece)] = piece
            position += len(piece)
        return values


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """A tensor that still lies in its file; a :class:`TensorSource`."""

    file: SafetensorsFile
    name: str

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.file.dtype(self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.file.shape(self.name)

    def chunks(self) -> Iterator[Array]:
        return self.file.chunks(self.name)

    @property
    def place(self) -> tuple[int, int]:
        """The open file's descriptor and the byte at which the tensor begins; both hold as long as ``file`` lives."""
        return self.file.place(self.name)

    def rows(self, indices: Iterable[int]) -> Array:
        """Fresh copies of some rows, in the order asked for; nothing else of the tensor comes into memory.

        Raises:
            CheckpointError: when there is no such row.
        """
        found = [self.file.read_rows(self.name, index, index + 1) for index in indices]
        return np.concatenate(found) if found else np.empty((0, *self.shape[1:]), self.dtype)


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Array | TensorSource], metadata: Mapping[str, str] | None = None
) -> int:
    """Write ``tensors`` to ``path`` so that the file is there whole or not at all; returns its size in bytes.

    The same tensors and metadata give the same bytes, whatever the order of the mapping. Sources are read piece by
    piece while they are written.

    Raises:
        CheckpointError: for a dtype that safetensors cannot store, or a folder that cannot be written.
        ResourceError: when the disk is full; nothing of the file remains.
    """
    kinds = {name: (np.dtype(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    header = build_header(kinds, metadata or {})
    names = file_order({name: dtype for name, (dtype, _) in kinds.items()})

    def pieces() -> Iterator[bytes | memoryview]:
        yield header
        for name in names:
            tensor = tensors[name]
            for chunk in [tensor] if isinstance(tensor, np.ndarray) else tensor.chunks():
                yield np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data

    total = sum(int(np.prod(shape, dtype=object)) * dtype.itemsize for dtype, shape in kinds.values()) + len(header)
    write_atomically(Path(path), pieces(), expected_bytes=total)
    return total


def write_atomically(path: Path, pieces: Iterator[bytes | memoryview], *, expected_bytes: int) -> None:
    """Write ``pieces`` to a temporary name beside ``path``, flush them to the disk, and rename.

    Raises:
        CheckpointError: when the folder cannot be written.
        ResourceError: when the disk is full, naming the path, the bytes needed and the bytes free.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        try:
            with open(partial, "wb", buffering=0) as file:
                for piece in pieces:
                    _write_all(file.fileno(), memoryview(piece))
                os.fsync(file.fileno())
            os.replace(partial, path)
            _sync_folder(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise ResourceError(
                f"{path} cannot be written: {error.strerror}; it needs {expected_bytes} bytes and "
                f"{free_bytes(path.parent)} are free: make room or choose another folder"
            ) from None
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror}; choose a folder that can be written"
        ) from None


def free_bytes(folder: Path) -> int:
    """Bytes that an ordinary user may still write to the disk that holds ``folder``, or its nearest existing parent."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
