"""Read a compressed-tensors checkpoint into dense float32 tensors, with nothing but numpy and safetensors.

A second, independent reader: it shares no code with Flyweight or with the compressed-tensors library, so that a
quality table puts every candidate through the same arithmetic and an error of one reader cannot hide. It knows the
two integer layouts (pack-quantized and int-quantized) and plain tensors, and nothing about models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open


def read_dense(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder as float32; quantized linears decoded to ``<name>.weight`` [out, in]."""
    stored: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (a safetensors file is not iterable)
                stored[name] = file.get_tensor(name)
    config = json.loads((folder / "config.json").read_text()).get("quantization_config")
    if config is None:
        return {name: tensor.float() for name, tensor in stored.items()}
    dense: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        module, _, kind = name.rpartition(".")
        if kind in ("weight_scale", "weight_zero_point", "weight_shape"):
            continue
        if kind == "weight_packed":
            dense[f"{module}.weight"] = torch.from_numpy(decode_packed(module, stored))
        elif kind == "weight" and tensor.dtype == torch.int8:
            dense[name] = torch.from_numpy(
                scale_codes(
                    tensor.numpy().astype(np.int64),
                    stored[f"{module}.weight_scale"].float().numpy(),
                    optional_numpy(stored, f"{module}.weight_zero_point"),
                )
            )
        else:
            dense[name] = tensor.float()
    return dense


def optional_numpy(stored: dict[str, torch.Tensor], name: str) -> NDArray[np.int64] | None:
    """The named tensor as int64, or None where the checkpoint has none."""
    return stored[name].numpy().astype(np.int64) if name in stored else None


def decode_packed(module: str, stored: dict[str, torch.Tensor]) -> NDArray[np.float32]:
    """One pack-quantized linear as float32 [out, in]; the bit width follows from the packed width."""
    packed = stored[f"{module}.weight_packed"].numpy()
    scale = stored[f"{module}.weight_scale"].float().numpy()
    rows, columns = (int(size) for size in stored[f"{module}.weight_shape"])
    bits = next(b for b in range(1, 9) if packed.shape[1] == -(-columns * b // 32))
    codes = unpack(packed, bits=bits, count=columns)
    zero = optional_numpy(stored, f"{module}.weight_zero_point")
    if zero is not None:
        zero = unpack(zero.astype(np.int32).T, bits=bits, count=rows).T
    return scale_codes(codes, scale, zero)


def unpack(words: NDArray[np.int32], *, bits: int, count: int) -> NDArray[np.int64]:
    """Signed codes [rows, count] from a dense little-endian bit stream per row of int32 ``words`` [rows, n]."""
    stream = np.unpackbits(
        np.ascontiguousarray(words).view(np.uint8).reshape(words.shape[0], -1), axis=1, bitorder="little"
    )
    digits = stream[:, : count * bits].reshape(words.shape[0], count, bits).astype(np.int64)
    unsigned: NDArray[np.int64] = digits @ (1 << np.arange(bits, dtype=np.int64))
    return unsigned - (1 << (bits - 1))


def scale_codes(
    codes: NDArray[np.int64], scale: NDArray[np.float32], zero: NDArray[np.int64] | None
) -> NDArray[np.float32]:
    """``(code - zero) * scale`` with scale and zero [out, groups] (or one value) spread over the columns."""
    rows, columns = codes.shape
    scale = scale.reshape(-1, scale.shape[-1]) if scale.ndim else scale.reshape(1, 1)
    groups = scale.shape[1]
    grouped = codes.reshape(rows, groups, columns // groups).astype(np.float32)
    if zero is not None:
        grouped = grouped - zero.reshape(-1, groups)[:, :, None]
    dense: NDArray[np.float32] = (grouped * scale[:, :, None].astype(np.float32)).reshape(rows, columns)
    return dense


def stored_weight_bits(folder: Path) -> tuple[float, int]:
    """Bits per weight over the quantized linears (codes, scales, zero points), and the bytes of all shards."""
    bits = 0
    weights = 0
    for shard in sorted(folder.glob("*.safetensors")):
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            first, last = entry["data_offsets"]
            module, _, kind = name.rpartition(".")
            size = 8 * (last - first)
            if kind in ("weight_packed", "weight_scale", "weight_zero_point") or entry["dtype"] == "I8":
                bits += size
            if f"{module}.weight_scale" in header and kind in ("weight_packed", "weight"):
                weights += packed_count(folder, shard, header, module)
    total = sum(shard.stat().st_size for shard in folder.glob("*.safetensors"))
    return (bits / weights if weights else 0.0), total


def packed_count(folder: Path, shard: Path, header: dict[str, Any], module: str) -> int:
    """Number of weights of one quantized linear."""
    if f"{module}.weight_shape" not in header:
        rows, columns = header[f"{module}.weight"]["shape"]
        return int(rows * columns)
    with safe_open(shard, framework="np") as file:
        return int(np.prod(file.get_tensor(f"{module}.weight_shape")))
