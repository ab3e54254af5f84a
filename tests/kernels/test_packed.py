"""Packed bytes: a view of them computes what the handle did, whatever is not a packed weight is refused, and their
meaning does not change under the same version number."""

import gc
import hashlib

import ml_dtypes
import numpy as np
import pytest

from flyweight import kernels
from flyweight.errors import KernelError
from flyweight.kernels import PackedKind, packed_kind, packed_parts, reference, view_packed

LAYOUT = 2
LAYOUT_DIGEST = "d083d36f342efea78893679dad8b52f27cce88a2b2a2bfea504ffb264d88e4ff"


def handles():
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((40, 51)).astype(np.float32)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        for compute in ("float32", "bfloat16"):
            yield kernels.prepare_plain(weight.astype(dtype), compute=compute)
    shapes = (
        (4, 64, "float32"),
        (4, 12, "bfloat16"),
        (6, 64, "float16"),
        (5, 12, "bfloat16"),
        (8, 24, "bfloat16"),
        (3, 192, "float32"),
    )
    for bits, group_size, scale_dtype in shapes:
        codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (33, 192), dtype=np.int8)
        scales = rng.uniform(0.01, 0.02, (33, 192 // group_size)).astype(scale_dtype)
        zeros = rng.integers(-4, 4, scales.shape, dtype=np.int8)
        for compute in ("float32", "bfloat16", "int8", "int8_token"):
            for zero_points in (None, zeros):
                yield kernels.prepare_int_group(
                    codes, scales, zero_points, bits=bits, group_size=group_size, compute=compute
                )


def aligned_copy(part):
    memory = np.zeros(len(part) + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + len(part)]
    copy[:] = part
    copy.flags.writeable = False
    return copy


def test_a_view_computes_what_the_handle_did(isa, rng):
    for handle in handles():
        kind = packed_kind(handle)
        assert kind.nbytes == handle.nbytes == sum(len(part) for part in packed_parts(handle))
        view = view_packed(kind, tuple(aligned_copy(part) for part in packed_parts(handle)))
        assert packed_kind(view) == kind
        x = rng.standard_normal((3, handle.in_features)).astype(np.float32)
        expected = kernels.linear(x, handle)
        del handle
        gc.collect(0)  # the youngest objects, were it kept by a circle; all of them take 50 ms
        np.testing.assert_array_equal(kernels.linear(x, view), expected)


def test_packed_bytes_mean_the_same_under_the_same_number():
    """When this fails, the layout has changed: raise kLayoutVersion in native/linear_handle.h, then both values."""
    digest = hashlib.sha256()
    for handle in handles():
        for part in packed_parts(handle):
            digest.update(part)
    assert (kernels.LAYOUT_VERSION, digest.hexdigest()) == (LAYOUT, LAYOUT_DIGEST)


def test_parts_are_read_only_and_outlive_their_handle():
    handle = next(handles())
    values = packed_parts(handle)[0]
    before = values.copy()
    del handle
    gc.collect()
    np.testing.assert_array_equal(values, before)
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1


def test_what_is_no_packed_weight_is_refused():
    handle = kernels.prepare_plain(np.ones((16, 8), np.float32), compute="float32")
    kind, parts = packed_kind(handle), packed_parts(handle)
    with pytest.raises(KernelError, match="2 parts"):
        view_packed(kind, parts[:2])
    with pytest.raises(KernelError, match="values must be 512 contiguous bytes"):
        view_packed(kind, (parts[0][:-1], *parts[1:]))
    shifted = np.zeros(640, np.uint8)
    start = -shifted.ctypes.data % 64 + 4
    with pytest.raises(KernelError, match="multiple of 64"):
        view_packed(kind, (shifted[start : start + 512], *parts[1:]))
    good = {
        "storage": "uint4",
        "compute": "int8",
        "out_features": 16,
        "in_features": 64,
        "group_size": 32,
        "activation_group": 32,
        "scale_storage": "float32",
        "has_zero_points": False,
    }
    assert PackedKind(**good).part_bytes == (512, 128, 0)
    narrow = good | {"storage": "uint6", "scale_storage": "bfloat16", "has_zero_points": True}
    assert PackedKind(**narrow).part_bytes == (768, 64, 64)
    for wrong in (
        {"storage": "uint5"},
        {"scale_storage": "uint8"},
        {"compute": "int4"},
        {"out_features": 0},
        {"in_features": 1 << 40},
        {"group_size": 48},
        {"activation_group": 1.5},
        {"has_zero_points": 1},
    ):
        with pytest.raises(KernelError):
            PackedKind(**{**good, **wrong})


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (4, 64), (5, 33), (200, 1033)])
def test_unpacked_codes_are_those_of_the_twin(rng, bits, shape):
    packed = rng.integers(-(2**31), 2**31, (shape[0], -(-shape[1] * bits // 32)), dtype=np.int64).astype(np.int32)
    unpacked = kernels.unpack_codes(packed, bits, shape[1])
    assert unpacked.dtype == np.int8
    np.testing.assert_array_equal(unpacked, reference.unpack_codes(packed, bits, shape[1]))


def test_a_stream_that_is_none_is_refused():
    with pytest.raises(KernelError, match="bits=1"):
        kernels.unpack_codes(np.zeros((1, 1), np.int32), 1, 8)
    with pytest.raises(KernelError, match=r"packed has shape \(1, 1\); \(any, 2\)"):
        kernels.unpack_codes(np.zeros((1, 1), np.int32), 4, 9)
