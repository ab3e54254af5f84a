"""The paged key-value cache: arrays of fixed-size blocks.

Attention reads keys and values through a sequence's block table, so a sequence may lie anywhere and grow without
copying. This module stores; it knows neither who owns a block nor what attends.
"""

from collections.abc import Sequence as SequenceOf

import numpy as np

from flyweight.formats.base import Array
from flyweight.formats.plain import FLOAT_DTYPES, FloatName
from flyweight.models.spec import BlockSpec

BLOCK_SIZE = 16


class KVCache:
    """Keys and values of ``blocks`` of a model in ``num_blocks`` cache blocks of ``block_size`` tokens.

    ``keys[i]`` and ``values[i]`` belong to the i-th decoder block given and have shape
    (num_blocks, block_size, num_kv_heads, head_dim) in ``dtype``.
    """

    def __init__(
        self,
        blocks: SequenceOf[BlockSpec],
        *,
        num_blocks: int,
        block_size: int = BLOCK_SIZE,
        dtype: FloatName = "float32",
    ) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.dtype = dtype
        self.first_layer = blocks[0].index if blocks else 0
        shapes = [(num_blocks, block_size, b.attention.num_kv_heads, b.attention.head_dim) for b in blocks]
        self.keys: list[Array] = [np.zeros(shape, FLOAT_DTYPES[dtype]) for shape in shapes]
        self.values: list[Array] = [np.zeros(shape, FLOAT_DTYPES[dtype]) for shape in shapes]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self.keys, *self.values))

    def layer(self, index: int) -> tuple[Array, Array]:
        """Keys and values of the decoder block with this index in the model."""
        return self.keys[index - self.first_layer], self.values[index - self.first_layer]
