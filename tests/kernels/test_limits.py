"""The yardsticks: only that they are measured and of a credible size; how large, only the machine knows."""

import time

import pytest

from flyweight import kernels
from flyweight.errors import KernelError


def test_rates_are_those_of_the_set_in_use(isa):
    with kernels.use_threads(1):
        limits = kernels.measure_limits(read_bytes=1 << 20, attempts=1)
    assert (limits.isa, limits.threads) == (isa, 1)
    # A rate beyond these would mean that the compiler has left the work out.
    assert 1e7 < limits.read_bandwidth < 1e12
    assert 1e7 < limits.cached_bandwidth < 1e12
    assert 1e7 < limits.bfloat16_rate < 2e13
    assert 1e7 < limits.int8_rate < 2e13
    assert 1e7 < limits.int4_rate < 2e13


@pytest.mark.skipif(not {"generic", "avx512"} <= set(kernels.available_isas()), reason="this CPU has no AVX-512")
def test_wider_registers_multiply_more():
    rates = {}
    for name in ("generic", "avx512"):
        with kernels.use_isa(name), kernels.use_threads(1):
            rates[name] = kernels.measure_limits(read_bytes=1 << 20, attempts=3).int8_rate
    assert rates["avx512"] > 1.5 * rates["generic"]


@pytest.mark.skipif("avx2" not in kernels.available_isas(), reason="this CPU has no AVX2")
def test_codes_of_four_bits_multiply_faster_where_their_sums_fit_in_16_bits():
    with kernels.use_isa("avx2"), kernels.use_threads(1):
        limits = [kernels.measure_limits(read_bytes=1 << 20, attempts=3) for _ in range(3)]
    assert max(one.int4_rate for one in limits) > 1.3 * max(one.int8_rate for one in limits)


def test_twice_the_bytes_take_longer():
    def seconds(size):
        start = time.perf_counter()
        kernels.measure_limits(read_bytes=size, attempts=3)
        return time.perf_counter() - start

    assert min(seconds(64 << 20) for _ in range(3)) > min(seconds(1 << 20) for _ in range(3))


@pytest.mark.parametrize(("setting", "message"), [({"read_bytes": 7}, "read_bytes=7"), ({"attempts": 0}, "attempts=0")])
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(KernelError, match=message):
        kernels.measure_limits(**setting)
