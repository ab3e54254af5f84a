"""Small integers out of a dense stream of bits."""

import numpy as np
from numpy.typing import NDArray

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.checks import check_array


def unpack_codes(packed: NDArray[np.int32], bits: int, columns: int) -> NDArray[np.int8]:
    """Element i of a row takes bits [i * bits, i * bits + bits) of the row's little-endian stream, plus 2^(bits-1).

    Args:
        packed: int32 (rows, ceil(columns * bits / 32)), contiguous.
        bits: 2 to 8.

    Returns:
        int8 (rows, columns), each in [-2^(bits-1), 2^(bits-1) - 1].

    Raises:
        KernelError: a wrong dtype, shape or layout.
    """
    if not 2 <= bits <= 8:
        raise KernelError(f"bits={bits} is not supported; choose 2 to 8")
    check_array("packed", packed, np.dtype(np.int32), (None, -(-columns * bits // 32)))
    codes = np.empty((packed.shape[0], columns), np.int8)
    _native.unpack_codes(packed, bits, codes)
    return codes
