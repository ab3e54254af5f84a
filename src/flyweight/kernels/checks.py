"""What every door to the native code checks of its arrays, and how it says what is wrong."""

from collections.abc import Mapping
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flyweight.errors import KernelError

Array = NDArray[Any]
Float32 = NDArray[np.float32]
FLOAT32 = np.dtype(np.float32)
FLOAT_NAMES: dict[np.dtype[Any], str] = {
    FLOAT32: "float32",
    np.dtype(np.float16): "float16",
    np.dtype(ml_dtypes.bfloat16): "bfloat16",
}
Choice = TypeVar("Choice")


def check_array(name: str, array: Array, dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> None:
    """Raise KernelError unless ``array`` has this dtype, this shape (None: any length) and no gaps in memory."""
    check_layout(name, array, dtype, shape)
    if not array.flags.c_contiguous:
        raise KernelError(f"{name} is not contiguous (strides {array.strides}); pass numpy.ascontiguousarray({name})")


def check_layout(name: str, array: Array, dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> None:
    """As ``check_array``, for arrays whose memory may have gaps."""
    if not isinstance(array, np.ndarray):
        raise KernelError(f"{name} is a {type(array).__name__}; a numpy array of {dtype} is needed")
    if array.dtype != dtype:
        raise KernelError(f"{name} has dtype {array.dtype}; {dtype} is needed")
    if array.shape != shape and not _fits(array.shape, shape):
        wanted_text = ", ".join("any" if length is None else str(length) for length in shape)
        raise KernelError(f"{name} has shape {array.shape}; ({wanted_text}) is needed")


def _fits(have: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    if len(have) != len(wanted):
        return False
    for length, wanted_length in zip(have, wanted, strict=True):
        if wanted_length is not None and length != wanted_length:
            return False
    return True


def check_rows(name: str, array: Array, dtype: np.dtype[Any], shape: tuple[int | None, int | None]) -> None:
    """As ``check_array``, for a matrix whose rows may lie apart (a slice of a wider one)."""
    check_layout(name, array, dtype, shape)
    if array.flags.c_contiguous:
        return
    row_stride, stride = array.strides
    if stride != dtype.itemsize or row_stride < 0 or row_stride % dtype.itemsize:
        raise KernelError(f"{name} has strides {array.strides}; each row must be contiguous")


def output(name: str, out: Float32 | None, shape: tuple[int, ...]) -> Float32:
    """``out`` after checking it, or a new array."""
    if out is None:
        return np.empty(shape, np.float32)
    check_array(name, out, FLOAT32, shape)
    check_writable(name, out)
    return out


def check_writable(name: str, array: Array) -> None:
    if not array.flags.writeable:
        raise KernelError(f"{name} is read-only, and results go there; pass a writable array")


def choose(name: str, value: str, choices: Mapping[str, Choice]) -> Choice:
    """The choice called ``value``."""
    if value not in choices:
        raise KernelError(f"{name}={value!r} is unknown; choose {', '.join(choices)}")
    return choices[value]


def float_name(name: str, array: Array) -> str:
    """``float32``, ``float16`` or ``bfloat16``; KernelError for any other dtype."""
    if array.dtype not in FLOAT_NAMES:
        raise KernelError(f"{name} has dtype {array.dtype}; float32, float16 or bfloat16 (ml_dtypes) is needed")
    return FLOAT_NAMES[array.dtype]


def as_words(array: Array) -> Array:
    """16-bit floats as 16-bit words, which is how they cross the border; float32 as it is."""
    return array if array.dtype == FLOAT32 else array.view(np.uint16)
