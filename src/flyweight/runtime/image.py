"""The repacked image: a model's packed weights in one file, written once and mapped read-only by every process.

The file begins with a preamble of 4 KiB that says where the header lies and what its SHA-256 is; then come the parts,
each on a boundary of 4 KiB; the header, JSON, is last. It is written under a temporary name and renamed when all of it
is on the disk, so an image is whole or not there. This module knows packed weights and plain arrays; it knows neither
checkpoints nor which images are worth keeping.
"""

import hashlib
import json
import mmap
import os
import struct
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from flyweight.errors import FlyweightError, IntegrityError, KernelError
from flyweight.formats.base import Array
from flyweight.kernels import LinearHandle, PackedKind, packed_parts, view_packed

MAGIC = b"FLYWIMG1"
PREAMBLE = struct.Struct("<8sQQQ32s")  # magic, header offset, header length, file length, SHA-256 of the header
PAGE = 4096
PARTIAL_SUFFIX = ".partial"
LARGEST_HEADER = 256 << 20


class ImageError(Exception):
    """Why an image cannot be used; whoever opened it packs the weights again. It never reaches a user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPart:
    """Where bytes lie in the image, and their SHA-256 in hexadecimal."""

    offset: int
    nbytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredHandle:
    """A packed weight in the image. ``parts`` are those of :data:`flyweight.kernels.packed.PARTS`."""

    kind: PackedKind
    parts: tuple[StoredPart, ...]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


class ImageWriter:
    """Writes an image piece by piece. Use as a context manager: left without :meth:`finish`, nothing remains.

    Args:
        path: the image's name; its folder exists.

    Raises:
        OSError: from any method, when the disk is full or the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}{PARTIAL_SUFFIX}")
        self._descriptor = os.open(
            self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o644
        )
        self._end = PAGE
        self._is_finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)
        if not self._is_finished:
            self._partial.unlink(missing_ok=True)

    def add_handle(self, kind: PackedKind, pieces: Iterable[LinearHandle]) -> StoredHandle:
        """Store a packed weight that comes in ``pieces`` of consecutive outputs, in order."""
        offsets = [self._reserve(nbytes) for nbytes in kind.part_bytes]
        written = [0] * len(offsets)
        digests = [hashlib.sha256() for _ in offsets]
        for piece in pieces:
            for index, part in enumerate(packed_parts(piece)):
                self._write(offsets[index] + written[index], part)
                digests[index].update(part.data)
                written[index] += len(part)
        if tuple(written) != kind.part_bytes:
            raise IntegrityError(f"{written} bytes of packed parts were written of {kind.part_bytes}")
        parts = zip(offsets, written, digests, strict=True)
        return StoredHandle(
            kind=kind,
            parts=tuple(StoredPart(offset=at, nbytes=nbytes, sha256=one.hexdigest()) for at, nbytes, one in parts),
        )

    def add_array(self, array: Array) -> StoredPart:
        """Store a float32 array."""
        values = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8)
        offset = self._reserve(values.nbytes)
        self._write(offset, values)
        return StoredPart(offset=offset, nbytes=values.nbytes, sha256=hashlib.sha256(values.data).hexdigest())

    def finish(self, header: Mapping[str, Any]) -> None:
        """Write the header, flush everything to the disk and give the file its name."""
        text = json.dumps(header).encode()
        offset = self._reserve(len(text))
        self._write(offset, text)
        preamble = PREAMBLE.pack(MAGIC, offset, len(text), offset + len(text), hashlib.sha256(text).digest())
        self._write(0, preamble.ljust(PAGE, b"\0"))
        os.fsync(self._descriptor)
        os.replace(self._partial, self._path)
        self._is_finished = True

    def _reserve(self, nbytes: int) -> int:
        offset = self._end
        self._end = -(-(offset + nbytes) // PAGE) * PAGE
        return offset

    def _write(self, offset: int, data: Any) -> None:
        view = memoryview(data).cast("B")
        while view:
            done = os.pwrite(self._descriptor, view, offset)
            view, offset = view[done:], offset + done


class Image:
    """An opened image: ``header`` as it was given to :meth:`ImageWriter.finish`. Use :meth:`open`.

    The file is mapped, so that nothing is read until it is touched, and what is touched is shared with every other
    process that has it open. It may be deleted while it is in use.
    """

    def __init__(self, *, path: Path, header: Mapping[str, Any], mapped: mmap.mmap, descriptor: int) -> None:
        self.path = path
        self.header = header
        self.mapped = mapped
        self.descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        self._bytes = np.frombuffer(mapped, np.uint8)

    @classmethod
    def open(cls, path: Path, key: Mapping[str, Any]) -> Self:
        """Map an image after checking its length, its header's checksum and that it was made under ``key``.

        Raises:
            FileNotFoundError: when there is none.
            ImageError: when it is damaged, or of another key.
        """
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            header = _read_header(descriptor)
            if header.get("key") != dict(key):
                raise ImageError("it was made for something else")
            mapped = mmap.mmap(descriptor, os.fstat(descriptor).st_size, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path=path, header=header, mapped=mapped, descriptor=descriptor)

    @property
    def nbytes(self) -> int:
        return len(self.mapped)

    def handle(self, stored: StoredHandle) -> LinearHandle:
        """A handle over the mapped bytes."""
        try:
            return view_packed(stored.kind, tuple(self._part(part) for part in stored.parts))
        except KernelError as error:
            raise ImageError(str(error)) from None

    def array(self, stored: StoredPart) -> Array:
        """A stored float32 array, flat, copied out of the mapping."""
        return self._part(stored).view(np.float32).copy()

    def verify(self, parts: Iterable[StoredPart]) -> None:
        """Read parts through and compare their checksums.

        Raises:
            ImageError: when one differs.
        """
        for part in parts:
            if hashlib.sha256(self._part(part).data).hexdigest() != part.sha256:
                raise ImageError(f"its bytes {part.offset} to {part.offset + part.nbytes} do not have their checksum")

    def _part(self, part: StoredPart) -> Array:
        if part.offset % PAGE or part.offset < PAGE or part.nbytes < 0 or part.offset + part.nbytes > len(self.mapped):
            raise ImageError(f"its header places {part.nbytes} bytes at {part.offset}")
        return self._bytes[part.offset : part.offset + part.nbytes]


def read_image_header(path: Path) -> dict[str, Any]:
    """The header of an image that nobody wants to map.

    Raises:
        OSError: when it cannot be read.
        ImageError: when it is damaged.
    """
    with open(path, "rb") as file:
        return _read_header(file.fileno())


def _read_header(descriptor: int) -> dict[str, Any]:
    length = os.fstat(descriptor).st_size
    if length < PAGE:
        raise ImageError(f"it has {length} bytes")
    magic, offset, size, stated_length, digest = PREAMBLE.unpack(os.pread(descriptor, PREAMBLE.size, 0))
    if magic != MAGIC:
        raise ImageError("it does not begin as an image does")
    if stated_length != length or offset + size > length or size > LARGEST_HEADER:
        raise ImageError(f"it has {length} bytes and should have {stated_length}")
    text = os.pread(descriptor, size, offset)
    if hashlib.sha256(text).digest() != digest:
        raise ImageError("its header does not have its checksum")
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ImageError("its header is no object")
    return header


def handle_from_json(data: Mapping[str, Any]) -> StoredHandle:
    """What ``dataclasses.asdict`` made of a stored handle.

    Raises:
        ImageError: when it describes no packed weight.
    """
    try:
        return StoredHandle(
            kind=PackedKind(**data["kind"]), parts=tuple(part_from_json(part) for part in data["parts"])
        )
    except (FlyweightError, KeyError, TypeError) as error:
        raise ImageError(f"its header describes no packed weight ({error})") from None


def part_from_json(data: Mapping[str, Any]) -> StoredPart:
    """What ``dataclasses.asdict`` made of a stored part.

    Raises:
        ImageError: when it describes none.
    """
    part = StoredPart(**data)
    if type(part.offset) is not int or type(part.nbytes) is not int or not isinstance(part.sha256, str):
        raise ImageError(f"its header describes no part: {data}")
    return part
