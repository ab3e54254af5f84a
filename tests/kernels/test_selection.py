import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from flyweight import kernels
from flyweight.errors import KernelError
from flyweight.kernels.selection import _cgroup_quota, select


def imported_with(code="print(kernels.isa(), kernels.thread_count())", **settings):
    """Import the kernels in a new process and run ``code``; returns the process after it ended."""
    code = f"from flyweight import kernels; {code}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLYWEIGHT_")} | settings
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", kernels.available_isas())
def test_the_environment_chooses_the_instruction_set(name):
    assert imported_with(FLYWEIGHT_ISA=name, FLYWEIGHT_THREADS="3").stdout == f"{name} 3\n"


def test_the_environment_caps_the_instruction_set():
    use = "print(kernels.available_isas()); kernels.use_isa('avx2').__enter__()"
    result = imported_with(use, FLYWEIGHT_ISA="generic")
    assert result.stdout == "('generic',)\n"
    assert "isa='avx2' is beyond this CPU or FLYWEIGHT_ISA; available here: generic" in result.stderr


@pytest.mark.parametrize("use", ["kernels.isa()", "kernels.cap(numpy.ones(3, numpy.float32), 1.0)"])
def test_an_unknown_instruction_set_is_refused_when_a_kernel_is_used(use):
    result = imported_with(f"import numpy; print('imported'); {use}", FLYWEIGHT_ISA="sse9")
    assert result.stdout == "imported\n"
    # That process is not capped as this one may be, so it may have more of them to offer.
    wanted = f"KernelError: FLYWEIGHT_ISA='sse9' is unknown; available here: {', '.join(kernels.available_isas())}"
    assert wanted in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("value", "message"), [("many", "is not a number; give 1 to 1024"), ("0", "=0 is out of range; give 1")]
)
def test_a_wrong_number_of_threads_is_refused(value, message):
    with pytest.raises(KernelError, match=message):
        select({"FLYWEIGHT_THREADS": value})


def test_the_instruction_set_comes_back_after_an_error():
    before = kernels.isa()
    seen = []

    def fail_on_generic():
        with kernels.use_isa("generic"):
            seen.append(kernels.isa())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_on_generic()
    assert (seen, kernels.isa()) == (["generic"], before)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_container_limit_is_read(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _cgroup_quota(tmp_path) == expected


def test_calls_from_several_threads_at_once(rng):
    handle = kernels.prepare_plain(rng.standard_normal((600, 256)).astype(np.float32), compute="float32")
    inputs = [rng.standard_normal((rows, 256)).astype(np.float32) for rows in (1, 40, 200, 3)]
    expected = [kernels.linear(x, handle) for x in inputs]
    wrong = []

    def work(index):
        results = [kernels.linear(inputs[index], handle) for _ in range(20)]
        wrong.extend(index for result in results if not np.array_equal(result, expected[index]))

    with kernels.use_threads(2):
        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forking with threads is what is tested
def test_a_forked_child_computes(rng):
    handle = kernels.prepare_plain(rng.standard_normal((600, 256)).astype(np.float32), compute="float32")
    x = rng.standard_normal((64, 256)).astype(np.float32)
    with kernels.use_threads(2):
        expected = kernels.linear(x, handle)
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(kernels.linear(x, handle), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
