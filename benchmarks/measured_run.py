"""Run a command and measure it from outside: wall seconds, peak resident memory, exit status.

The peak is the larger of two views: the kernel's own high-water mark of the largest single process (``wait4``), and
the polled sum over the whole process tree, which sees several processes at once but can miss a spike between two polls
and counts shared pages once per process. Knows nothing of what it runs. Needs psutil.
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What one run cost. Bytes are bytes; ``exit_status`` is negative for a death by signal."""

    seconds: float
    peak_rss_bytes: int
    exit_status: int


def run_measured(command: list[str], *, log: Path, environment: dict[str, str] | None = None) -> Measurement:
    """Run ``command`` to its end with both output streams appended to ``log``."""
    tree_peak = 0
    done = threading.Event()

    def poll(process_id: int) -> None:
        nonlocal tree_peak
        while not done.is_set():
            tree_peak = max(tree_peak, tree_rss_bytes(process_id))
            done.wait(POLL_SECONDS)

    with log.open("ab") as stream:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        watcher = threading.Thread(target=poll, args=(process.pid,), daemon=True)
        watcher.start()
        # wait4 and not process.wait(): only it hands back the resource usage of exactly this child.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        done.set()
        watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
    # A child begins as a copy of its parent, whose peak then stays in the child's own: below that it tells nothing.
    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    own_peak = 0 if usage.ru_maxrss <= inherited else usage.ru_maxrss
    unit = 1 if platform.system() == "Darwin" else 1024
    return Measurement(
        seconds=seconds,
        peak_rss_bytes=max(own_peak * unit, tree_peak),
        exit_status=process.returncode,
    )


def tree_rss_bytes(process_id: int) -> int:
    """Resident bytes of a process and all its descendants, 0 when it is gone."""
    total = 0
    try:
        root = psutil.Process(process_id)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def machine_line() -> str:
    """CPU, cores, memory and system: the line that every table of figures carries."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    gibibytes = psutil.virtual_memory().total / 2**30
    return f"{model}, {os.cpu_count()} logical CPUs, {gibibytes:.0f} GiB, {platform.system()} {platform.release()}"
