"""In batch-invariant mode a row's result does not depend on the other rows of the call."""

from functools import cache

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight import kernels

WIDTH = 320
PLAIN = (np.float32, np.float16, ml_dtypes.bfloat16)


FORMS = [(str(np.dtype(dtype)), 0, False, compute) for dtype in PLAIN for compute in ("float32", "bfloat16")] + [
    (f"int{bits}", group_size, asymmetric, compute)
    for bits in (4, 6, 8)
    for group_size, asymmetric in ((64, False), (WIDTH, False), (16, True))
    for compute in ("float32", "bfloat16", "int8", "int8_token")
]


@cache
def weights(storage, group_size, asymmetric):
    rng = np.random.default_rng(3)
    if not group_size:
        return rng.standard_normal((70, WIDTH)).astype(storage)
    high = 2 ** (int(storage[3:]) - 1)
    codes = rng.integers(-high, high, (70, WIDTH), dtype=np.int8)
    scales = rng.uniform(0.001, 0.1, (70, WIDTH // group_size)).astype(np.float32)
    return codes, scales, codes[:, : WIDTH // group_size].copy() if asymmetric else None


def prepared(form):
    storage, group_size, asymmetric, compute = form
    weight = weights(storage, group_size, asymmetric)
    if not group_size:
        return kernels.prepare_plain(weight, compute=compute)
    return kernels.prepare_int_group(*weight, bits=int(storage[3:]), group_size=group_size, compute=compute)


def inputs(rng, rows):
    """Of very different sizes: else sums of few bits are exact in any order."""
    return (rng.standard_normal((rows, WIDTH)) * 10 ** rng.uniform(-4, 0, (rows, WIDTH))).astype(np.float32)


@pytest.fixture(params=kernels.available_isas())
def invariant(request):
    with kernels.use_isa(request.param), kernels.use_batch_invariant(True):
        yield


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_row_alone_is_the_row_among_500(invariant, rng, form):
    handle = prepared(form)
    x = inputs(rng, 500)
    together = kernels.linear(x, handle)
    for row in (0, 1, 17, 255, 498, 499):
        np.testing.assert_array_equal(kernels.linear(x[row : row + 1], handle)[0], together[row])


@pytest.mark.parametrize("isa", kernels.available_isas())
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    form=st.sampled_from(FORMS),
    rows=st.integers(1, 70),
    cuts=st.lists(st.integers(0, 70), max_size=5),
    threads=st.integers(1, 2),
)
def test_however_the_rows_are_cut_into_calls(isa, form, rows, cuts, threads):
    x = inputs(np.random.default_rng(rows), rows)
    handle = prepared(form)
    with kernels.use_isa(isa), kernels.use_batch_invariant(True):
        together = kernels.linear(x, handle)
        with kernels.use_threads(threads):
            pieces = [kernels.linear(piece, handle) for piece in np.split(x, sorted(min(c, rows) for c in cuts))]
    np.testing.assert_array_equal(np.concatenate(pieces), together)


def test_the_mode_holds_for_its_block_only():
    seen = [kernels.batch_invariant()]
    with kernels.use_batch_invariant(True):
        seen.append(kernels.batch_invariant())
        with kernels.use_batch_invariant(False):
            seen.append(kernels.batch_invariant())
        seen.append(kernels.batch_invariant())
    assert [*seen, kernels.batch_invariant()] == [False, True, False, True, False]
