"""Packing is a dense little-endian bit stream: by its definition in plain Python, and bit for bit as the library's."""

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

from flyweight.checkpoint import packing
from flyweight.checkpoint.packing import pack, packed_length, padded_length, unpack, unpack_any

BITS = range(2, 9)
SHAPES = [(1, 1), (3, 7), (2, 8), (5, 33), (4, 64), (7, 65), (1, 31), (9, 320)]


def random_codes(shape: tuple[int, int], bits: int) -> np.ndarray:
    codes = np.random.default_rng(bits).integers(-(1 << (bits - 1)), 1 << (bits - 1), shape).astype(np.int8)
    codes.flat[0], codes.flat[-1] = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return codes


def pack_by_definition(codes: np.ndarray, bits: int) -> np.ndarray:
    words = -(-codes.shape[1] * bits // 32)
    rows = []
    for row in codes.tolist():
        stream = sum((code + (1 << (bits - 1))) << (i * bits) for i, code in enumerate(row))
        rows.append([(stream >> (32 * word)) & 0xFFFFFFFF for word in range(words)])
    return np.array(rows, np.uint32).view(np.int32)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_as_defined_and_as_the_library(bits, shape):
    codes = random_codes(shape, bits)
    packed = pack(codes, bits)
    assert packed.dtype == np.int32
    assert packed.shape == (shape[0], packed_length(shape[1], bits))
    np.testing.assert_array_equal(packed, pack_by_definition(codes, bits))
    np.testing.assert_array_equal(packed, pack_to_int32(torch.tensor(codes), bits).numpy())
    np.testing.assert_array_equal(unpack(packed, bits, shape[1]), codes)
    theirs = unpack_from_int32(torch.tensor(packed), bits, torch.Size(shape)).numpy()
    np.testing.assert_array_equal(unpack(packed, bits, shape[1]), theirs)


@pytest.mark.parametrize("bits", BITS)
def test_along_the_outputs_as_the_library_packs_zero_points(bits):
    zero_points = random_codes((45, 3), bits)
    ours = pack(np.ascontiguousarray(zero_points.T), bits).T
    theirs = pack_to_int32(torch.tensor(zero_points), bits, packed_dim=0).numpy()
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("bits", BITS)
def test_strided_codes_and_small_pieces(bits, monkeypatch):
    codes = random_codes((40, 100), bits)
    whole = pack(codes, bits)
    monkeypatch.setattr(packing, "ELEMENTS_AT_ONCE", 300)
    np.testing.assert_array_equal(pack(codes, bits), whole)
    np.testing.assert_array_equal(pack(np.asfortranarray(codes), bits), whole)
    np.testing.assert_array_equal(unpack(np.asfortranarray(whole), bits, 100), codes)


@pytest.mark.parametrize("bits", BITS)
def test_the_older_packing_that_pads_each_word(bits):
    """As compressed-tensors up to 0.17 stored it: 32 // bits elements a word, told by the number of words."""
    codes = random_codes((3, 64), bits)
    per_word = 32 // bits
    padded = np.zeros((3, padded_length(64, bits)), np.uint32)
    for (row, column), code in np.ndenumerate(codes):
        padded[row, column // per_word] |= np.uint32((int(code) + (1 << (bits - 1))) << (column % per_word * bits))
    assert (padded.shape == pack(codes, bits).shape) == (32 % bits == 0)
    np.testing.assert_array_equal(unpack_any(padded.view(np.int32), bits, 64), codes)
    np.testing.assert_array_equal(unpack_any(pack(codes, bits), bits, 64), codes)


def test_no_columns_and_no_rows():
    assert pack(np.empty((0, 5), np.int8), 4).shape == (0, 1)
    assert pack(np.empty((5, 0), np.int8), 4).shape == (5, 0)
    assert unpack(np.empty((5, 0), np.int32), 4, 0).shape == (5, 0)
