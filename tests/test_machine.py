"""The machine: limits of control groups, read from files as the kernel writes them."""

from dataclasses import replace
from pathlib import Path

import pytest

from flyweight.machine import Machine, cpu_name, cpu_quota, memory_limit


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content + "\n")


def test_version_2_takes_the_tightest_of_the_groups_above(tmp_path: Path) -> None:
    write(tmp_path / "pod" / "cpu.max", "150000 100000")
    write(tmp_path / "pod" / "box" / "cpu.max", "max 100000")
    write(tmp_path / "pod" / "memory.max", "4000000000")
    write(tmp_path / "pod" / "memory.current", "3000000000")
    write(tmp_path / "pod" / "memory.stat", "anon 5\ninactive_file 500000000\nactive_file 7")
    write(tmp_path / "pod" / "box" / "memory.max", "max")
    write(tmp_path / "pod" / "box" / "memory.current", "3000000000")
    groups = {"": "/pod/box"}
    assert cpu_quota(tmp_path, groups) == 1.5
    assert memory_limit(tmp_path, groups) == (4_000_000_000, 2_500_000_000)


def test_version_1_has_a_tree_for_each_controller(tmp_path: Path) -> None:
    write(tmp_path / "cpu" / "box" / "cpu.cfs_quota_us", "50000")
    write(tmp_path / "cpu" / "box" / "cpu.cfs_period_us", "100000")
    write(tmp_path / "cpu" / "cpu.cfs_quota_us", "-1")
    write(tmp_path / "cpu" / "cpu.cfs_period_us", "100000")
    write(tmp_path / "memory" / "box" / "memory.limit_in_bytes", "1000")
    write(tmp_path / "memory" / "box" / "memory.usage_in_bytes", "400")
    write(tmp_path / "memory" / "memory.limit_in_bytes", "9223372036854771712")
    write(tmp_path / "memory" / "memory.usage_in_bytes", "400")
    groups = {"cpu": "/box", "memory": "/box"}
    assert cpu_quota(tmp_path, groups) == 0.5
    assert memory_limit(tmp_path, groups) == (1000, 400)


def test_a_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    write(tmp_path / "memory.max", "1000")
    write(tmp_path / "memory.current", "2000")
    assert memory_limit(tmp_path, {"": "/not/visible/here"}) == (1000, 2000)


def test_no_limits_at_all(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, {}) is None
    assert memory_limit(tmp_path, {}) == (None, 0)


def test_the_processor_names_itself(tmp_path: Path) -> None:
    write(tmp_path / "cpuinfo", "processor\t: 0\nmodel name\t: Some  CPU @ 3 GHz\n")
    assert cpu_name(tmp_path / "cpuinfo") == "Some CPU @ 3 GHz"
    assert cpu_name(tmp_path / "absent")


def test_this_machine_is_described_in_one_line() -> None:
    machine = Machine.detect()
    assert machine.num_cores >= 1
    assert 0 < machine.free_memory_bytes <= machine.memory_bytes
    assert "\n" not in machine.describe()
    known = replace(machine, cpu="X", num_cores=2, cpu_quota=1.5, memory_bytes=8 * 10**9, isa="avx2")
    assert replace(known, free_memory_bytes=10**9).describe() == (
        "X, 2 cores (quota 1.5), kernels avx2, 8.0 GB memory, 1.0 GB free"
    )


@pytest.mark.parametrize("content", ["", "garbage", "max", "12"])
def test_unreadable_limits_are_no_limits(tmp_path: Path, content: str) -> None:
    write(tmp_path / "cpu.max", content)
    write(tmp_path / "memory.max", "garbage")
    assert cpu_quota(tmp_path, {"": "/"}) is None
    assert memory_limit(tmp_path, {"": "/"}) == (None, 0)
