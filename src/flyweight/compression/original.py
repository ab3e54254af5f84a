"""The original block, run beside the compressed one: what its two projections onto the residual stream should give.

A layer's own original output is not the best aim once its inputs have changed: what counts is the stream. Where
nothing lies between projection and stream, the aim is therefore the original stream after the projection, and a layer
also makes up for what earlier ones lost; where a norm lies between, it is the projection's original output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flyweight.compression.activations import Activations
from flyweight.compression.sequences import Piece
from flyweight.formats.base import Array
from flyweight.models.spec import BlockSpec
from flyweight.runtime import decoder
from flyweight.runtime.native_ops import NativeOps

MakeActivations = Callable[[str, int], Activations]
"""(kind: ``stream`` or ``inner``, width) -> room for one float32 row of ``width`` per calibration token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a projection onto the stream should give, for every calibration token.

    ``rows`` are the original stream after it (``is_stream``) or its original output; ``is_owned``: nobody else's.
    """

    rows: Activations
    is_stream: bool
    is_owned: bool
    residual_scale: float

    def output(self, piece: Piece, x: Array, bias: Array | None) -> Array:
        """Outputs x W^T to aim at, given the compressed stream ``x`` (tokens, hidden_size) before the projection."""
        wanted = self.rows.read(piece.start, piece.stop)
        if self.is_stream:
            wanted = (wanted - x) / np.float32(self.residual_scale)
        return wanted if bias is None else wanted - bias

    def release(self) -> None:
        if self.is_owned:
            self.rows.release()


def run_attention(
    block: BlockSpec, ops: NativeOps, pieces: Sequence[Piece], stream: Activations, make: MakeActivations
) -> Target:
    """Move the original ``stream`` behind the block's attention, whose original weights ``ops`` must hold."""
    is_stream = block.post_attention_norm is None
    rows = make("stream", stream.width)
    for piece in pieces:
        x = stream.read(piece.start, piece.stop)
        mixed = decoder.mix_heads(
            block.attention, block.index, ops, decoder.attention_input(block, ops, x), piece.batch
        )
        y = ops.linear(block.attention.output, mixed)
        after = decoder.add_attention(block, ops, x, y)
        rows.write(piece.start, after if is_stream else y)
        stream.write(piece.start, after)
    return Target(rows=rows, is_stream=is_stream, is_owned=True, residual_scale=block.residual_scale)


def run_mlp(
    block: BlockSpec, ops: NativeOps, pieces: Sequence[Piece], stream: Activations, make: MakeActivations
) -> Target:
    """Move the original ``stream`` behind the block's feed-forward, whose original weights ``ops`` must hold."""
    is_stream = block.post_mlp_norm is None
    rows = stream if is_stream else make("stream", stream.width)
    for piece in pieces:
        x = stream.read(piece.start, piece.stop)
        y = ops.linear(block.mlp.down, decoder.gate(block.mlp, ops, decoder.mlp_input(block, ops, x)))
        if not is_stream:
            rows.write(piece.start, y)
        stream.write(piece.start, decoder.add_mlp(block, ops, x, y))
    return Target(rows=rows, is_stream=is_stream, is_owned=not is_stream, residual_scale=block.residual_scale)
