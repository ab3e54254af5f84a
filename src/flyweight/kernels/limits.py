"""What this machine can do at best, measured: the yardsticks that a kernel's speed is a share of. Knows no kernel.

On a shared machine these move from minute to minute: measure them next to what is compared with them.
"""

from dataclasses import dataclass

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.selection import isa, thread_count

SMALLEST_READ = 1 << 20
CACHED_BYTES_PER_THREAD = 1 << 19


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The best of several attempts, on ``threads`` threads with the instructions of ``isa``.

    ``read_bandwidth`` and ``cached_bandwidth`` are bytes per second of a plain read from end to end: of a buffer that
    no cache should hold, and of half a MiB per thread. The rates are multiplications plus additions per second of the
    instructions that the linear kernels use, all operands in registers: ``int4_rate`` of codes of four bits with int8
    inputs, ``int8_rate`` of codes of eight bits with them, ``bfloat16_rate`` of bfloat16 with bfloat16.
    """

    isa: str
    threads: int
    read_bandwidth: float
    cached_bandwidth: float
    int4_rate: float
    int8_rate: float
    bfloat16_rate: float


def measure_limits(*, read_bytes: int = 1 << 30, attempts: int = 5) -> Limits:
    """Measure with the instruction set and threads in use. About a second; takes ``read_bytes`` of memory meanwhile.

    Args:
        read_bytes: length of the buffer for ``read_bandwidth``; it should be several times the largest cache.
        attempts: how often each is tried; the best counts.

    Raises:
        KernelError: fewer than 1 MiB or fewer than one attempt.
    """
    if read_bytes < SMALLEST_READ:
        raise KernelError(f"read_bytes={read_bytes} is too little to measure; give at least {SMALLEST_READ}")
    if attempts < 1:
        raise KernelError(f"attempts={attempts} is out of range; give at least 1")
    threads = thread_count()
    return Limits(
        isa=isa(),
        threads=threads,
        read_bandwidth=_native.measure_read(read_bytes, attempts),
        cached_bandwidth=_native.measure_read(threads * CACHED_BYTES_PER_THREAD, 100 * attempts),
        int4_rate=_native.measure_multiply(_native.Product.int4, attempts),
        int8_rate=_native.measure_multiply(_native.Product.int8, attempts),
        bfloat16_rate=_native.measure_multiply(_native.Product.bfloat16, attempts),
    )
