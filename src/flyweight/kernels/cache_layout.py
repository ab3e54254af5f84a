"""How keys and values lie in the blocks of a paged cache: types, sizes, memory. Knows no sequence and no model.

A block of the cache holds, for each key/value head, units of 32 tokens. A unit is laid out for the attention kernels,
which read it front to back: its keys first, sixteen tokens side by side, then its values, sixteen numbers side by
side; ``native/cache_layout.h`` gives every byte. A block is moved or copied as a whole: ``cache[new] = cache[old]``.

    kv_dtype    keys                                            values                      bytes a number, head_dim 64
    float32     as they are                                     as they are                 4
    float16     rounded                                         rounded                     2
    bfloat16    rounded                                         rounded                     2
    int8        256 steps for every 32 numbers of a token       256 steps for every token   1.09
    int4        16 steps for every 32 numbers of a token        16 steps for every token    0.59

Steps are a bfloat16 offset and scale each. Keys get the finer grid: a few of their channels are much larger than the
others, and a score's error is magnified by the exponential.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flyweight.errors import KernelError
from flyweight.kernels import _native
from flyweight.kernels.checks import choose

KVDtype = Literal["float32", "float16", "bfloat16", "int8", "int4"]
KV_DTYPES: tuple[KVDtype, ...] = get_args(KVDtype)
CACHE_TYPES: dict[str, _native.CacheType] = {name: getattr(_native.CacheType, name) for name in KV_DTYPES}
CACHE_UNIT = 32
ALIGNMENT = 64
Cache = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheLayout:
    """The cache of one layer: what a number is stored as, and the sizes.

    Attributes:
        kv_dtype: ``float32``, ``float16``, ``bfloat16``, ``int8`` or ``int4``.
        kv_heads, head_dim: of a token's keys, and of its values.
        block_size: tokens of a block, a multiple of 32.

    Raises:
        KernelError: an unknown type, or a size that is not allowed.
    """

    kv_dtype: KVDtype
    kv_heads: int
    head_dim: int
    block_size: int = CACHE_UNIT

    def __post_init__(self) -> None:
        choose("kv_dtype", self.kv_dtype, CACHE_TYPES)
        if self.block_size < 1 or self.block_size % CACHE_UNIT:
            raise KernelError(f"block_size={self.block_size} is not allowed; choose a multiple of {CACHE_UNIT}")
        if self.kv_heads < 1 or self.head_dim < 1:
            raise KernelError(f"kv_heads={self.kv_heads}, head_dim={self.head_dim}: both must be at least 1")

    @property
    def head_bytes(self) -> int:
        """Bytes of one head in one block."""
        return _native.cache_head_bytes(CACHE_TYPES[self.kv_dtype], self.head_dim, self.block_size)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block: keys and values of ``block_size`` tokens in this layer."""
        return self.kv_heads * self.head_bytes

    def allocate(self, num_blocks: int) -> Cache:
        """An empty cache: zeros, uint8 (num_blocks, kv_heads, head_bytes), beginning at a cache line.

        Raises:
            MemoryError: when there is not so much memory.
        """
        shape = (num_blocks, self.kv_heads, self.head_bytes)
        room = np.zeros(num_blocks * self.block_bytes + ALIGNMENT, np.uint8)
        start = -room.ctypes.data % ALIGNMENT
        return room[start : start + num_blocks * self.block_bytes].reshape(shape)
