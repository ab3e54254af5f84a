"""What this machine offers a process: processor, cores, memory, and the limits that a container sets on them.

A container's CPU quota and memory limit (control groups, version 1 and 2) count as the machine's size, since going
past them means being throttled or killed. It measures nothing and decides nothing.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from flyweight import kernels

CONTROL_GROUPS = Path("/sys/fs/cgroup")
UNLIMITED_BYTES = 1 << 60  # version 1 writes "no limit" as a number near 2^63


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The machine as this process may use it.

    ``num_cores`` are the cores it may run on, ``cpu_quota`` the cores' worth of time it is granted (None when not
    limited). ``memory_bytes`` is all memory it could ever have, ``free_memory_bytes`` what it could have now.
    ``isa`` is the instruction set that the kernels use.
    """

    cpu: str
    num_cores: int
    cpu_quota: float | None
    memory_bytes: int
    free_memory_bytes: int
    isa: str

    @classmethod
    def detect(cls) -> Self:
        """Look at the machine now."""
        memory = psutil.virtual_memory()
        limit, used = memory_limit(CONTROL_GROUPS, _own_groups())
        return cls(
            cpu=cpu_name(),
            num_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            cpu_quota=cpu_quota(CONTROL_GROUPS, _own_groups()),
            memory_bytes=memory.total if limit is None else min(memory.total, limit),
            free_memory_bytes=memory.available if limit is None else max(0, min(memory.available, limit - used)),
            isa=kernels.isa(),
        )

    def describe(self) -> str:
        """One line, for the first line of a log or a report."""
        quota = "" if self.cpu_quota is None else f" (quota {self.cpu_quota:g})"
        return (
            f"{self.cpu}, {self.num_cores} core{'s' if self.num_cores != 1 else ''}{quota}, kernels {self.isa}, "
            f"{self.memory_bytes / 1e9:.1f} GB memory, {self.free_memory_bytes / 1e9:.1f} GB free"
        )


def resident_bytes() -> int:
    """What this process has in memory now."""
    return int(psutil.Process().memory_info().rss)


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as it gives itself."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def cpu_quota(root: Path, groups: dict[str, str]) -> float | None:
    """The smallest CPU quota, in cores, of this process's control groups and those above them."""
    quotas = []
    for folder in _folders(root, groups.get("", "/")):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            quotas.append(int(quota) / int(period))
    for folder in _folders(root / "cpu", groups.get("cpu", "/")):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_limit(root: Path, groups: dict[str, str]) -> tuple[int | None, int]:
    """The tightest memory limit in bytes of this process's control groups (None when there is none) and what is used
    of it, without the file cache that the kernel can take back."""
    tightest: tuple[int, int] | None = None
    second = [(folder, "memory.max", "memory.current") for folder in _folders(root, groups.get("", "/"))]
    first = [
        (folder, "memory.limit_in_bytes", "memory.usage_in_bytes")
        for folder in _folders(root / "memory", groups.get("memory", "/"))
    ]
    for folder, limit_name, usage_name in second + first:
        limit, usage = _read(folder / limit_name), _read(folder / usage_name)
        if not limit.isdigit() or int(limit) >= UNLIMITED_BYTES or not usage.isdigit():
            continue
        used = max(0, int(usage) - _reclaimable(folder))
        if tightest is None or int(limit) - used < tightest[0] - tightest[1]:
            tightest = (int(limit), used)
    return (None, 0) if tightest is None else tightest


def _reclaimable(folder: Path) -> int:
    for line in _read(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def _own_groups() -> dict[str, str]:
    """Controller name to the path of this process's group; version 2 has one path, under the empty name."""
    groups: dict[str, str] = {}
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def _folders(root: Path, path: str) -> list[Path]:
    """The group's folder and all above it; inside a container the root itself is the container's group."""
    folder = root / path.lstrip("/")
    return [one for one in (folder, *folder.parents) if one == root or root in one.parents]


def _read(path: Path) -> str:
    """The stripped content; empty where the file is absent or closed to us."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
