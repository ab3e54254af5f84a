"""Dense packing of small signed integers into 32-bit words, as compressed-tensors stores them.

Element i of a row takes bits [i*bits, i*bits + bits) of a little-endian bit stream, offset by 2^(bits-1) to be
unsigned; elements straddle words where bits do not divide 32, and each row is padded with zero bits to a whole
word. This module knows neither scales nor files.

Source: compressed-tensors 0.20, ``compressors/pack_quantized/helpers.py``. Releases up to 0.17 padded instead: a word
held 32 // bits elements and none straddled. That is the same for 2, 4 and 8 bits; for 3, 5, 6 and 7 bits it is told
by the number of words, and read as well.
"""

from typing import Any, TypeAlias

import numpy as np

from flyweight import kernels

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

WORD_BITS = 32
LANE = 8  # elements handled together: they fill exactly ``bits`` bytes, and fit in one 64-bit integer
ELEMENTS_AT_ONCE = 1 << 22  # bounds the working memory to a few times this many bytes


def packed_length(count: int, bits: int) -> int:
    """How many 32-bit words hold ``count`` elements of ``bits`` bits."""
    return -(-count * bits // WORD_BITS)


def pack(codes: Array, bits: int) -> Array:
    """Pack int8 codes (rows, columns) in [-2^(bits-1), 2^(bits-1) - 1] to int32 (rows, packed_length(columns))."""
    rows, columns = codes.shape
    words, lanes = packed_length(columns, bits), -(-columns // LANE)
    packed = np.empty((rows, words), "<i4")
    offset = np.uint8(1 << (bits - 1))  # added and subtracted modulo 256
    for begin, end in _row_ranges(rows, columns):
        count = end - begin
        unsigned = np.zeros((count, lanes * LANE), np.uint8)
        np.add(codes[begin:end].view(np.uint8), offset, out=unsigned[:, :columns])
        accumulated = np.zeros((count, lanes), "<u8")
        for element in range(LANE):
            accumulated |= unsigned[:, element::LANE].astype(np.uint64) << np.uint64(element * bits)
        stream = accumulated.view(np.uint8).reshape(count, lanes, 8)[:, :, :bits].reshape(count, lanes * bits)
        padded = np.zeros((count, words * 4), np.uint8)
        used = min(words * 4, lanes * bits)
        padded[:, :used] = stream[:, :used]
        packed[begin:end] = padded.view("<i4")
    return packed.astype(np.int32, copy=False)


def unpack(packed: Array, bits: int, columns: int) -> Array:
    """The int8 codes (rows, columns) that :func:`pack` stored in int32 (rows, packed_length(columns))."""
    return kernels.unpack_codes(np.ascontiguousarray(packed), bits, columns)


def padded_length(count: int, bits: int) -> int:
    """How many words hold ``count`` elements in the older packing without straddling."""
    return -(-count // (WORD_BITS // bits))


def unpack_any(packed: Array, bits: int, columns: int) -> Array:
    """The codes of a tensor in either packing, told apart by its width."""
    if packed.shape[1] == packed_length(columns, bits):
        return unpack(packed, bits, columns)
    per_word = WORD_BITS // bits
    words = np.ascontiguousarray(packed).view(np.uint32)
    codes = np.empty((packed.shape[0], packed.shape[1] * per_word), np.int8)
    mask, offset = np.uint32((1 << bits) - 1), np.uint8(1 << (bits - 1))
    for element in range(per_word):
        codes[:, element::per_word] = (((words >> np.uint32(element * bits)) & mask).astype(np.uint8) - offset).view(
            np.int8
        )
    return np.ascontiguousarray(codes[:, :columns])


def _row_ranges(rows: int, columns: int) -> list[tuple[int, int]]:
    step = max(1, ELEMENTS_AT_ONCE // max(1, columns))
    return [(begin, min(begin + step, rows)) for begin in range(0, rows, step)]
