"""The paged key-value cache: one array of fixed-size blocks for each layer.

Attention reads keys and values through a sequence's block table, so a sequence may lie anywhere and grow without
copying. This module stores; it knows neither who owns a block nor what attends. What a block looks like inside, the
kernels know.
"""

from collections.abc import Sequence

from flyweight.kernels import CACHE_UNIT, Cache, CacheLayout, KVDtype
from flyweight.models.spec import BlockSpec

BLOCK_SIZE = CACHE_UNIT


class KVCache:
    """Keys and values of ``blocks`` of a model in ``num_blocks`` cache blocks of ``block_size`` tokens.

    ``layers[i]`` belongs to the i-th decoder block given: uint8 (num_blocks, kv_heads, bytes) in ``layouts[i]``. A
    cache block is copied within every layer by ``layer[new] = layer[old]``.

    Args:
        block_size: tokens of a cache block, a multiple of 32; a cache without layers plans in any size.

    Raises:
        KernelError: a block size or type that the kernels do not have.
        MemoryError: when there is not so much memory.
    """

    def __init__(
        self,
        blocks: Sequence[BlockSpec],
        *,
        num_blocks: int,
        block_size: int = BLOCK_SIZE,
        dtype: KVDtype = "float32",
    ) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.dtype = dtype
        self.first_layer = blocks[0].index if blocks else 0
        self.layouts = [cache_layout(block, dtype, block_size) for block in blocks]
        self.layers = [layout.allocate(num_blocks) for layout in self.layouts]

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    def layer(self, index: int) -> tuple[Cache, CacheLayout]:
        """The cache of the decoder block with this index in the model."""
        return self.layers[index - self.first_layer], self.layouts[index - self.first_layer]


def cache_layout(block: BlockSpec, dtype: KVDtype, block_size: int = BLOCK_SIZE) -> CacheLayout:
    """How one decoder block's keys and values are cached."""
    attention = block.attention
    return CacheLayout(
        kv_dtype=dtype, kv_heads=attention.num_kv_heads, head_dim=attention.head_dim, block_size=block_size
    )


def cache_block_bytes(blocks: Sequence[BlockSpec], dtype: KVDtype, block_size: int = BLOCK_SIZE) -> int:
    """Bytes that one cache block takes in all layers together."""
    return sum(cache_layout(block, dtype, block_size).block_bytes for block in blocks)
