"""The slow twins of the cache and of attention: they define every byte of a cache block and what attention computes.

Writing must agree to the byte in every number that is stored. Attention is summed in float64 over the cache as it is
read back. The kernels stay within these distances of it, for values of size 1: 3e-6 for float32 and float16; 2 ** -7
for bfloat16, whose products take queries and weights rounded to 8 bits, or, of many rows outside batch-invariant mode
(see ``kernels.attend``), everything rounded to 12 or 13 bits of the largest of a vector; 5e-4 for int8 and int4, whose
products take queries and weights rounded to 16 bits. Checks nothing: the facade does.
"""

from itertools import pairwise

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from flyweight.kernels.cache_layout import CACHE_UNIT, Cache, CacheLayout
from flyweight.kernels.checks import Array, Float32

KEY_GROUP = 32
SMALLEST_SCALE = np.float32(1e-30)
FLOATS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
STEPS = {"int8": 255, "int4": 15}
TOGETHER = {"float32": 1, "float16": 1, "bfloat16": 2, "int8": 4, "int4": 8}
Float64 = NDArray[np.float64]


def quantize_cached(x: Float32, steps: int) -> tuple[NDArray[np.uint8], Float32, Float32]:
    """Codes of the last axis and one scale and offset for it: ``x`` is near ``offset + scale * code``.

    The offset is the minimum rounded down, the scale ``(maximum - offset) / steps`` rounded up, both to bfloat16;
    all in float32. A scale of at most 1e-30 is 0; where a number is not finite, scale and offset are NaN.
    """
    finite = np.isfinite(x).all(axis=-1, keepdims=True)
    x = np.where(finite, x, np.float32(0))
    offset = _bfloat16_towards(x.min(axis=-1, keepdims=True), up=False)
    exact = (x.max(axis=-1, keepdims=True) - offset) / np.float32(steps)
    alive = exact > SMALLEST_SCALE
    scale = np.where(alive, _bfloat16_towards(np.where(alive, exact, np.float32(1)), up=True), np.float32(0))
    inverse = np.where(alive, np.float32(1) / np.where(alive, scale, np.float32(1)), np.float32(0))
    codes = np.clip(np.rint((x - offset) * inverse), 0, steps).astype(np.uint8)
    nan = np.float32(np.nan)
    return codes, np.where(finite, scale, nan)[..., 0], np.where(finite, offset, nan)[..., 0]


def _bfloat16_towards(x: Float32, *, up: bool) -> Float32:
    nearest = x.astype(ml_dtypes.bfloat16)
    wrong = nearest.astype(np.float32) < x if up else nearest.astype(np.float32) > x
    beside = np.nextafter(nearest, ml_dtypes.bfloat16(np.inf if up else -np.inf))
    rounded: Float32 = np.where(wrong, beside, nearest).astype(np.float32)
    return rounded


class _Parts:
    """Views of a cache's parts. h: heads; u: units of a block; n: numbers or tokens side by side.

    keys (blocks, h, u, 2, steps, 16, n), key_scales (blocks, h, u, 2, groups, 2, 16), values (blocks, h, u, steps,
    padded head_dim, n), value_scales (blocks, h, u, 2, 32).
    """

    def __init__(self, cache: Cache, layout: CacheLayout) -> None:
        name = layout.kv_dtype
        units = layout.block_size // CACHE_UNIT
        blocks = cache.reshape(len(cache), layout.kv_heads, units, layout.head_bytes // units)
        self.together = TOGETHER[name]
        self.padded = -(-layout.head_dim // 16) * 16
        self.groups = -(-self.padded // KEY_GROUP) if name in STEPS else 0
        bits = {"float32": 32, "int8": 8, "int4": 4}.get(name, 16)
        ends = np.cumsum([0, 4 * self.padded * bits, 128 * self.groups, 4 * self.padded * bits])
        dtype, side = (np.dtype(np.uint8), 4) if name in STEPS else (np.dtype(FLOATS[name]), self.together)
        lead = blocks.shape[:3]
        keys, key_scales, values = (blocks[..., start:stop] for start, stop in pairwise(ends))
        self.keys: Array = keys.view(dtype).reshape(*lead, 2, self.padded // self.together, 16, side)
        self.values: Array = values.view(dtype).reshape(*lead, CACHE_UNIT // self.together, self.padded, side)
        narrow = ml_dtypes.bfloat16
        self.key_scales: Array = key_scales.view(narrow).reshape(*lead, 2, self.groups, 2, 16)
        self.value_scales: Array = blocks[..., ends[-1] :].view(narrow).reshape(*lead, 2, -1)


def cache_write(k: Float32, v: Float32, cache: Cache, layout: CacheLayout, slots: NDArray[np.int64]) -> None:
    parts = _Parts(cache, layout)
    units = cache.reshape(len(cache), layout.kv_heads, layout.block_size // CACHE_UNIT, -1)
    places = [(*divmod(int(slot) % layout.block_size, CACHE_UNIT), int(slot) // layout.block_size) for slot in slots]
    for unit, token, block in places:
        if token == 0:
            units[block, :, unit] = 0
    pad = ((0, 0), (0, 0), (0, parts.padded - layout.head_dim))
    for (unit, token, block), key, value in zip(places, np.pad(k, pad), np.pad(v, pad), strict=True):
        panel, lane = divmod(token, 16)
        step, beside = divmod(token, parts.together)
        if layout.kv_dtype not in STEPS:
            rows = key.reshape(len(key), -1, parts.together)
            parts.keys[block, :, unit, panel, :, lane] = rows.astype(parts.keys.dtype)
            parts.values[block, :, unit, step, :, beside] = value.astype(parts.values.dtype)
            continue
        most = STEPS[layout.kv_dtype]
        codes = np.zeros_like(key, np.uint8)
        for group in range(parts.groups):
            piece = slice(group * KEY_GROUP, min((group + 1) * KEY_GROUP, layout.head_dim))
            codes[:, piece], scale, offset = quantize_cached(key[:, piece], most)
            parts.key_scales[block, :, unit, panel, group, 0, lane] = scale
            parts.key_scales[block, :, unit, panel, group, 1, lane] = offset
        rows = codes.reshape(len(key), -1, parts.together)
        if parts.together == 8:
            rows = rows[..., :4] | rows[..., 4:] << 4
        parts.keys[block, :, unit, panel, :, lane] = rows
        codes, scale, offset = quantize_cached(value[:, : layout.head_dim], most)
        parts.value_scales[block, :, unit, 0, token] = scale
        parts.value_scales[block, :, unit, 1, token] = offset
        where = parts.values[block, :, unit, step, : layout.head_dim, beside % 4]
        if parts.together == 8:
            where[...] = where & 0x0F | codes << 4 if beside >= 4 else where & 0xF0 | codes
        else:
            where[...] = codes


def read_cache(cache: Cache, layout: CacheLayout) -> tuple[Float32, Float32]:
    """Keys and values float32 (slots, kv_heads, head_dim) as the cache holds them."""
    parts = _Parts(cache, layout)
    keys, values = parts.keys, parts.values
    if parts.together == 8:
        keys, values = (np.concatenate([codes & 15, codes >> 4], axis=-1) for codes in (keys, values))
    blocks, heads, units = keys.shape[:3]
    keys = np.moveaxis(keys.astype(np.float32), 5, 4).reshape(blocks, heads, units, 2, 16, -1)
    values = np.moveaxis(values.astype(np.float32), 5, 4).reshape(blocks, heads, units, CACHE_UNIT, -1)
    if parts.groups:
        scales = np.repeat(parts.key_scales.astype(np.float32), KEY_GROUP, axis=4)[:, :, :, :, : parts.padded]
        scale, offset = (np.moveaxis(scales[..., i, :], -1, -2) for i in (0, 1))
        keys = offset + scale * keys
        scale, offset = (parts.value_scales[:, :, :, i, :, None].astype(np.float32) for i in (0, 1))
        values = offset + scale * values
    shape = (blocks * layout.block_size, heads, parts.padded)
    in_order = [np.moveaxis(x.reshape(blocks, heads, -1, parts.padded), 1, 2).reshape(shape) for x in (keys, values)]
    return in_order[0][..., : layout.head_dim], in_order[1][..., : layout.head_dim]


def attend(
    q: Float32,
    cache: Cache,
    layout: CacheLayout,
    block_tables: NDArray[np.int32],
    query_starts: NDArray[np.int32],
    context_lengths: NDArray[np.int32],
    *,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
    keep_first: int = 0,
    sinks: Float32 | None = None,
) -> Float64:
    """One softmax per new token and head over all keys it may see; a bfloat16 cache meets ``scale * q`` in bfloat16."""
    all_keys, all_values = read_cache(cache, layout)
    scaled = q * np.float32(scale)
    if layout.kv_dtype == "bfloat16":
        scaled = scaled.astype(ml_dtypes.bfloat16)
    scaled = scaled.astype(np.float64)
    out = np.zeros(q.shape, np.float64)
    for sequence, length in enumerate(context_lengths):
        positions = np.arange(length)
        slots = block_tables[sequence, positions // layout.block_size].astype(np.int64) * layout.block_size
        slots += positions % layout.block_size
        new = slice(query_starts[sequence], query_starts[sequence + 1])
        age = np.arange(length - (new.stop - new.start), length)[:, None] - positions
        seen = (age >= 0) & ((window == 0) | (age < window) | (positions < keep_first))
        for head in range(q.shape[1]):
            kv_head = head // (q.shape[1] // layout.kv_heads)
            keys, values = all_keys[slots, kv_head].astype(np.float64), all_values[slots, kv_head].astype(np.float64)
            scores = scaled[new, head] @ keys.T
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            sink = -np.inf if sinks is None else float(sinks[head])
            scores = np.where(seen, scores, -np.inf)
            largest = np.maximum(scores.max(axis=1, keepdims=True), sink)
            weights = np.where(seen, np.exp(scores - largest), 0.0)
            out[new, head] = weights @ values / (weights.sum(axis=1, keepdims=True) + np.exp(sink - largest))
    return out
