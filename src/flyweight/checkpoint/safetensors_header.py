"""The header of a safetensors file: checked to the last byte when read, laid out deterministically when written.

The file is an 8-byte little-endian length, a JSON object of that many bytes, and the tensors back to back. A
header that contradicts itself or the size of its file is refused, so that no later read can leave the file or
mistake one tensor for another. This module knows neither files nor models: bytes in, entries out.

Source: the format section of the safetensors README (huggingface/safetensors).
"""

import json
import math
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from flyweight.errors import CheckpointError, nearest

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 32
MAX_TENSOR_BYTES = 2**62  # above this numpy cannot describe an array, even an empty one
METADATA_KEY = "__metadata__"
ENTRY_KEYS = ("data_offsets", "dtype", "shape")

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxstring = 3, 8, 120
DTYPE_NAMES: Mapping[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """Where one tensor lies. ``begin`` and ``end`` are byte offsets from the start of the file."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a file holds: entries in the order in which they lie, and the free-text metadata."""

    entries: tuple[TensorEntry, ...]
    metadata: Mapping[str, str]


def header_length(prefix: bytes, file_bytes: int, source: str) -> int:
    """The length of the JSON part, from the first 8 bytes of a file of ``file_bytes`` bytes named ``source``.

    Raises:
        CheckpointError: when the file is too short for the length it states, or the length exceeds 100 MB.
    """
    if len(prefix) < LENGTH_BYTES:
        raise _fault(source, f"has {len(prefix)} bytes, not even the 8 of the header length")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise _fault(source, f"states a header of {length} bytes; at most {MAX_HEADER_BYTES} are allowed")
    if length > file_bytes - LENGTH_BYTES:
        raise _fault(source, f"states a header of {length} bytes but has only {file_bytes - LENGTH_BYTES} after it")
    return length


def parse_header(text: bytes, file_bytes: int, source: str) -> Header:
    """Parse and check the JSON part ``text`` of a file of ``file_bytes`` bytes named ``source``.

    Raises:
        CheckpointError: for every way in which the header can be malformed or contradict the file's size.
    """
    data_start = LENGTH_BYTES + len(text)
    fields = _parse_json(text, source)
    metadata = _check_metadata(fields.pop(METADATA_KEY, {}), source)
    entries = [_parse_entry(name, value, data_start, source) for name, value in fields.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    _check_layout(entries, data_start, file_bytes, source)
    return Header(entries=tuple(entries), metadata=metadata)


def build_header(tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a file (length and JSON) that holds ``tensors`` in :func:`file_order`.

    The same names, dtypes, shapes and metadata give the same bytes; the JSON is padded with spaces so that the
    data starts at a multiple of 8.

    Raises:
        CheckpointError: for a dtype that safetensors has no name for.
    """
    fields: dict[str, Any] = {METADATA_KEY: dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in file_order({name: dtype for name, (dtype, _) in tensors.items()}):
        dtype, shape = tensors[name]
        end = offset + math.prod(shape) * dtype.itemsize
        fields[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def file_order(dtypes: Mapping[str, np.dtype[Any]]) -> list[str]:
    """Names in the order of their data: widest dtype first, so that every tensor is aligned; then by name.

    Raises:
        CheckpointError: for a dtype that safetensors has no name for.
    """
    for name, dtype in dtypes.items():
        if dtype not in DTYPE_NAMES:
            raise CheckpointError(
                f"tensor {name!r} has dtype {dtype}, which safetensors cannot store; allowed: {_listed(DTYPES)}"
            )
    return sorted(dtypes, key=lambda name: (-dtypes[name].itemsize, name))


def _fault(source: str, what: str) -> CheckpointError:
    return CheckpointError(f"{source} {what}; the file is damaged or is no safetensors file: download the shard again")


def _parse_json(text: bytes, source: str) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise _fault(source, f"has a header that starts with {text[:1]!r}; a JSON object starts with '{{'")
    try:
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _fault(source, f"has a header that is not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise _fault(source, f"has a header that is not valid JSON ({error})") from None
    if not isinstance(fields, dict):  # unreachable for text that starts with '{'; kept for the type
        raise _fault(source, "has a header that is no JSON object")
    return fields


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {shown(name)} appears twice")
            seen.add(name)
    return fields


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _check_metadata(value: Any, source: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise _fault(source, f"has a {METADATA_KEY} that does not map names to strings")
    return value


def _parse_entry(name: str, value: Any, data_start: int, source: str) -> TensorEntry:
    tensor = f"tensor {shown(name)}"
    if not name.isprintable():
        # Lone surrogates and control characters would break every later message and every file written from it.
        raise _fault(source, f"names a {tensor}, which is not printable text")
    if not isinstance(value, dict) or tuple(sorted(value)) != ENTRY_KEYS:
        found = ", ".join(sorted(map(shown, value))) if isinstance(value, dict) else shown(value)
        raise _fault(source, f"describes {tensor} by {found or 'nothing'}; needed: {', '.join(ENTRY_KEYS)}")
    dtype_name = value["dtype"]
    if not isinstance(dtype_name, str) or dtype_name not in DTYPES:
        raise CheckpointError(
            f"{source} holds {tensor} of dtype {shown(dtype_name)}, which is not known; known: {_listed(DTYPES)}"
            f"{nearest(str(dtype_name), DTYPES)}; convert the tensor, or download the shard again"
        )
    shape, dtype = _check_shape(value["shape"], tensor, source), DTYPES[dtype_name]
    offsets = value["data_offsets"]
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _fault(source, f"places {tensor} at data_offsets {shown(offsets)}; needed: [begin, end], begin <= end")
    stored = offsets[1] - offsets[0]
    needed = math.prod(shape) * dtype.itemsize
    if stored != needed:
        raise _fault(
            source, f"gives {tensor} {stored} bytes, but shape {list(shape)} of dtype {dtype_name} needs {needed}"
        )
    return TensorEntry(name=name, dtype=dtype, shape=shape, begin=data_start + offsets[0], end=data_start + offsets[1])


def _check_shape(value: Any, tensor: str, source: str) -> tuple[int, ...]:
    if not _are_sizes(value) or len(value) > MAX_DIMENSIONS:
        raise _fault(source, f"gives {tensor} the shape {shown(value)}; needed: at most 32 non-negative integers")
    if math.prod(size for size in value if size) > MAX_TENSOR_BYTES // 8:
        raise _fault(source, f"gives {tensor} the shape {shown(value)}, larger than any array can be")
    return tuple(value)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < MAX_TENSOR_BYTES for item in value)


def _check_layout(entries: Iterable[TensorEntry], data_start: int, file_bytes: int, source: str) -> None:
    """No overlap, no hole, and the last tensor ends where the file ends. Offsets in messages count from the data."""
    position, before = data_start, "the header"
    for entry in entries:
        tensor = f"tensor {shown(entry.name)}"
        if entry.begin < position:
            raise _fault(
                source,
                f"lets {tensor} overlap {before}: it begins at {entry.begin - data_start}, before "
                f"{position - data_start}",
            )
        if entry.begin > position:
            raise _fault(source, f"leaves a hole of {entry.begin - position} bytes between {before} and {tensor}")
        position, before = entry.end, tensor
    if position > file_bytes:
        raise _fault(source, f"is truncated: {position - file_bytes} of {position} bytes are missing at its end")
    if position < file_bytes:
        raise _fault(source, f"has {file_bytes - position} bytes after the last tensor that belong to none")


def shown(value: Any) -> str:
    """``repr`` cut short: what a damaged file holds may be long or deeply nested."""
    return _REPR.repr(value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
