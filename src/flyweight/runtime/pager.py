"""What of a mapped image stays in memory when not all of it may: a step uses the weights in one fixed order.

The first weights of that order stay; the others are asked for one ahead of their use and sent away after it. It knows
spans of a file and their order, not what they hold.
"""

import mmap
import os
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from flyweight.errors import ResourceError
from flyweight.runtime.image import PAGE, Image

Span = tuple[tuple[int, int], ...]
"""(offset, bytes) of the parts of one packed weight."""

PIECES_IN_CEILING = 8  # a weight larger than this share of the ceiling is cut
MEASURED_BYTES = 32 << 20
READ_BYTES = 4 << 20
WINDOW_PIECES = 3  # the one in use, the one before it, and one to spare


class Pager:
    """Keeps an image's resident bytes under a ceiling. One thread at a time may use it.

    Attributes:
        resident_bytes: what stays.
        streamed_bytes: what is read again in every step, from the file cache or the disk.

    Args:
        spans: of each handle of each group, by the group's name, in the order of use.
        ceiling: most bytes of the image in memory.
        drop_cache: what is sent away leaves the system's file cache too, so that it does not push out what stays.

    Raises:
        ResourceError: when the ceiling is too low for the largest weights to be used one after another.
    """

    def __init__(self, image: Image, spans: Mapping[str, tuple[Span, ...]], *, ceiling: int, drop_cache: bool) -> None:
        self._image = image
        self._drop_cache = drop_cache
        self._spans = [span for group in spans.values() for span in group]
        self._first: dict[str, int] = {}
        for name in spans:
            self._first[name] = sum(len(spans[earlier]) for earlier in self._first)
        sizes = [span_bytes(span) for span in self._spans]
        self._num_resident = len(sizes)
        self._window = 0
        if sum(sizes) > ceiling:
            self._window = WINDOW_PIECES * max(sizes)
            if self._window > ceiling:
                raise ResourceError(
                    f"{ceiling / 1e6:.0f} MB for weights is too little: {self._window / 1e6:.0f} MB are needed to use "
                    "them one after another; raise the memory limit or lower the cache tokens"
                )
            self._num_resident = _fitting(sizes, ceiling - self._window)
        self.resident_bytes = sum(sizes[: self._num_resident])
        self.streamed_bytes = sum(sizes[self._num_resident :])
        self._present: deque[int] = deque()
        self._present_bytes = 0
        self._asked = -1
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="flyweight-read-ahead")

    def use(self, name: str, index: int) -> None:
        """Called before handle ``index`` of group ``name`` is used: asks for what comes next, sends away what was."""
        if not self.streamed_bytes:
            return
        at = self._first[name] + index
        if at >= self._num_resident:
            self._enter(at)
        ahead = max(at + 1, self._num_resident)
        if ahead == len(self._spans):
            ahead = self._num_resident
        if ahead != self._asked:
            self._asked = ahead
            self._reader.submit(self._advise, ahead, os.POSIX_FADV_WILLNEED)

    def _enter(self, at: int) -> None:
        if at in self._present:  # a group that is used again before anything else
            return
        self._present.append(at)
        self._present_bytes += span_bytes(self._spans[at])
        while self._present_bytes > self._window and len(self._present) > 1:
            leaving = self._present.popleft()
            self._present_bytes -= span_bytes(self._spans[leaving])
            for offset, nbytes in self._spans[leaving]:
                begin = offset // PAGE * PAGE
                self._image.mapped.madvise(mmap.MADV_DONTNEED, begin, offset + nbytes - begin)
            if self._drop_cache:
                self._reader.submit(self._advise, leaving, os.POSIX_FADV_DONTNEED)

    def _advise(self, at: int, advice: int) -> None:
        for offset, nbytes in self._spans[at]:
            os.posix_fadvise(self._image.descriptor, offset, nbytes, advice)


def span_bytes(span: Span) -> int:
    return sum(nbytes for _, nbytes in span)


def _fitting(sizes: list[int], room: int) -> int:
    """How many of ``sizes``, from the first on, fit into ``room``."""
    for count, size in enumerate(sizes):
        room -= size
        if room < 0:
            return count
    return len(sizes)


def describe_streaming(image: Image, pager: Pager) -> str:
    """A line about weights that do not fit, with the steps a second that the disk, measured now, will allow."""
    speed = measure_read(image)
    return (
        f"{pager.streamed_bytes / 1e9:.2f} GB of the weights do not fit into memory and are read for every step; the "
        f"disk reads {speed / 1e9:.2f} GB/s, so expect {speed / pager.streamed_bytes:.2g} tokens/s alone, more "
        "where the system's file cache holds them"
    )


def measure_read(image: Image) -> float:
    """Bytes a second at which the end of an image comes from the disk, the file cache put aside for it."""
    nbytes = min(MEASURED_BYTES, image.nbytes)
    begin = (image.nbytes - nbytes) // PAGE * PAGE
    os.posix_fadvise(image.descriptor, begin, nbytes, os.POSIX_FADV_DONTNEED)
    buffer = bytearray(READ_BYTES)
    start = time.perf_counter()
    for offset in range(begin, begin + nbytes, READ_BYTES):
        os.preadv(image.descriptor, [buffer], offset)
    return nbytes / max(time.perf_counter() - start, 1e-9)
