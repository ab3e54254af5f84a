"""Which instruction set and how many threads the kernels use. Knows no kernel.

FLYWEIGHT_ISA       generic, avx2, avx512vnni, avx512 or amx: the best the kernels may use (default: this CPU's best)
FLYWEIGHT_THREADS   threads of one call (default: the CPUs this process may use, container limits included)
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flyweight.errors import KernelError
from flyweight.kernels import _native

KNOWN_ISAS = ("generic", "avx2", "avx512vnni", "avx512", "amx")
MOST_THREADS = 1024


def isa() -> str:
    """The instruction set in use: ``generic``, ``avx2``, ``avx512vnni`` (F, BW, DQ, VL, VNNI), ``avx512`` (these, and
    BF16) or ``amx`` (these, and the tile registers of AMX in bfloat16 and int8).

    Raises:
        KernelError: ``FLYWEIGHT_ISA`` or ``FLYWEIGHT_THREADS`` cannot be followed.
    """
    return _native.isa()


def available_isas() -> tuple[str, ...]:
    """The instruction sets this CPU can run and ``FLYWEIGHT_ISA`` allows, slowest first."""
    return tuple(_native.available_isas())


def thread_count() -> int:
    """How many threads work on one call."""
    return _native.thread_count()


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """Run the block on another instruction set. It holds for the whole process: for tests and benchmarks.

    Raises:
        KernelError: ``name`` is unknown, this CPU lacks it, or ``FLYWEIGHT_ISA`` forbids it.
    """
    before = isa()
    if not _native.use_isa(name):
        raise KernelError(_refusal("isa", name))
    try:
        yield
    finally:
        _native.use_isa(before)


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Run the block with another number of threads. It holds for the whole process: for tests and benchmarks.

    Raises:
        KernelError: ``count`` is not between 1 and 1024.
    """
    before = thread_count()
    _switch_threads(count, "threads")
    try:
        yield
    finally:
        _switch_threads(before, "threads")


def batch_invariant() -> bool:
    """Whether a row's result is bit-identical whatever other rows are in the call (see ``use_batch_invariant``)."""
    return _native.batch_invariant()


@contextmanager
def use_batch_invariant(wanted: bool) -> Iterator[None]:
    """Run the block in batch-invariant mode, or outside it. It holds for the whole process.

    In that mode each row (token) of an operation gets the same bits whatever other rows are in the call and however a
    prompt is cut into calls, on the same instruction set. Outside it a kernel may choose another order of sums where
    that is faster for the number of rows.
    """
    before = batch_invariant()
    _native.set_batch_invariant(wanted)
    try:
        yield
    finally:
        _native.set_batch_invariant(before)


def select(environment: Mapping[str, str] = os.environ) -> None:
    """Follow ``FLYWEIGHT_ISA`` and ``FLYWEIGHT_THREADS``.

    Raises:
        KernelError: a value is unknown, out of range or beyond this CPU.
    """
    wanted = environment.get("FLYWEIGHT_ISA", "")
    if wanted and not _native.limit_isa(wanted):
        raise KernelError(_refusal("FLYWEIGHT_ISA", wanted))
    threads = environment.get("FLYWEIGHT_THREADS", "")
    if threads and not threads.isdecimal():
        raise KernelError(f"FLYWEIGHT_THREADS={threads!r} is not a number; give 1 to {MOST_THREADS}, or leave it unset")
    _switch_threads(int(threads) if threads else usable_cpus(), "FLYWEIGHT_THREADS")


def select_or_refuse() -> None:
    """``select`` for the time of import: a setting that cannot be followed is told when a kernel is first used.

    An import that fails would reach the user of the command line as a traceback.
    """
    try:
        select()
    except KernelError as error:
        _native.refuse(KernelError, str(error))


def usable_cpus() -> int:
    """CPUs this process may keep busy: its affinity, cut by the container's quota (cgroup v2 or v1), at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs' worth of time the container may use, or None where there is no limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1") or not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return int(quota) / int(period)


def _refusal(setting: str, name: str) -> str:
    reason = "is beyond this CPU or FLYWEIGHT_ISA" if name in KNOWN_ISAS else "is unknown"
    return f"{setting}={name!r} {reason}; available here: {', '.join(available_isas())}"


def _switch_threads(count: int, setting: str) -> None:
    if not 1 <= count <= MOST_THREADS:
        raise KernelError(f"{setting}={count} is out of range; give 1 to {MOST_THREADS}")
    if count != thread_count():
        _native.set_thread_count(count)
