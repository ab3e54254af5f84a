"""One decoder block through compression: observe, quantize, propagate, one group of linears after the other.

Every group is observed with what the *compressed* layers before it give. Where a method aims at targets, the original
block runs beside. It knows neither files nor journals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flyweight.checkpoint.weights import Weights
from flyweight.compression import original
from flyweight.compression.activations import Activations
from flyweight.compression.layer import CompressedLayer, compress_layer
from flyweight.compression.original import MakeActivations, Target
from flyweight.compression.rules import Assignment
from flyweight.compression.sequences import Piece, Sequences
from flyweight.compression.statistics import InputStatistics
from flyweight.formats.base import Array, Compute, StoredWeight
from flyweight.models.spec import BlockSpec, LinearGroup
from flyweight.runtime import decoder
from flyweight.runtime.native_ops import NativeOps, PreparedBlock
from flyweight.runtime.prepared import PreparedGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class Streams:
    """The residual stream of all calibration tokens: of the compressed model, and of the original one where targets
    are wanted (else None)."""

    compressed: Activations
    original: Activations | None


class BlockRun:
    """One block's way through compression; :meth:`run` is called once.

    ``advance`` is called with the name of every layer that is done.
    """

    def __init__(
        self,
        block: BlockSpec,
        *,
        weights: Weights,
        assignments: Mapping[str, Assignment],
        sequences: Sequences,
        streams: Streams,
        make: MakeActivations,
        compute: Compute,
        advance: Callable[[str], None],
    ) -> None:
        self._block, self._weights, self._assignments = block, weights, assignments
        self._streams, self._make, self._compute, self._advance = streams, make, compute, advance
        self._groups: dict[str, PreparedGroup] = {}
        norms = {norm.name: weights.norm(norm) for norm in block.norms}
        cache = sequences.cache(block)
        self._ops = NativeOps(PreparedBlock(groups=self._groups, norms=norms), cache)
        self._pieces: Sequence[Piece] = tuple(sequences.pieces(cache))
        self._layers: dict[str, CompressedLayer] = {}

    def run(self) -> dict[str, CompressedLayer]:
        """Compress the block's layers and move the streams behind the block."""
        attention, mlp = self._block.attention, self._block.mlp
        attention_target, mlp_target = self._run_original()
        self._compress(attention.qkv, self._observe(attention.qkv, decoder.attention_input))
        self._project(attention.output, self._mix_heads, attention_target, decoder.add_attention, (attention.qkv,))
        self._compress(mlp.gate_up, self._observe(mlp.gate_up, decoder.mlp_input))
        self._project(mlp.down, self._gate, mlp_target, decoder.add_mlp, (mlp.gate_up,))
        return self._layers

    def _run_original(self) -> tuple[Target | None, Target | None]:
        stream = self._streams.original
        if stream is None:
            return None, None
        block, targets = self._block, []
        for run, groups in (
            (original.run_attention, (block.attention.qkv, block.attention.output)),
            (original.run_mlp, (block.mlp.gate_up, block.mlp.down)),
        ):
            for group in groups:
                self._install(group, {linear.name: self._weights.linear(linear) for linear in group.linears})
            targets.append(run(block, self._ops, self._pieces, stream, self._make))
            self._drop(*groups)
        return targets[0], targets[1]

    def _observe(
        self, group: LinearGroup, input_of: Callable[[BlockSpec, NativeOps, Array], Array]
    ) -> InputStatistics | None:
        """Statistics of what a norm gives to ``group``; None when no method asks for them."""
        if not self._needs_inputs(group):
            return None
        statistics = InputStatistics(group.in_features, compute=self._compute)
        for piece in self._pieces:
            x = self._streams.compressed.read(piece.start, piece.stop)
            statistics.add(input_of(self._block, self._ops, x))
        return statistics

    def _project(
        self,
        group: LinearGroup,
        inputs: Callable[[Array, Piece], Array],
        target: Target | None,
        add: Callable[[BlockSpec, NativeOps, Array, Array], Array],
        feeding: tuple[LinearGroup, ...],
    ) -> None:
        """Compress a projection onto the stream, whose inputs ``inputs`` makes of the stream, and add its output."""
        stream = self._streams.compressed
        statistics = InputStatistics(group.in_features, compute=self._compute) if self._needs_inputs(group) else None
        linear = group.linears[0]
        aim = target if self._wants_targets(group) else None
        bias = None if aim is None else self._weights.bias(linear)
        kept = self._make("inner", group.in_features)
        for piece in self._pieces:
            x = stream.read(piece.start, piece.stop)
            y = inputs(x, piece)
            kept.write(piece.start, y)
            if statistics is not None:
                statistics.add(y, None if aim is None else aim.output(piece, x, bias))
        if target is not None:
            target.release()
        self._drop(*feeding)
        self._compress(group, statistics)
        del statistics
        for piece in self._pieces:
            x = stream.read(piece.start, piece.stop)
            y = self._ops.linear(group, kept.read(piece.start, piece.stop))
            stream.write(piece.start, add(self._block, self._ops, x, y))
        kept.release()
        self._drop(group)

    def _mix_heads(self, x: Array, piece: Piece) -> Any:
        block = self._block
        return decoder.mix_heads(
            block.attention, block.index, self._ops, decoder.attention_input(block, self._ops, x), piece.batch
        )

    def _gate(self, x: Array, piece: Piece) -> Any:
        return decoder.gate(self._block.mlp, self._ops, decoder.mlp_input(self._block, self._ops, x))

    def _compress(self, group: LinearGroup, statistics: InputStatistics | None) -> None:
        """Compress the group's layers and make the compressed ones what the block runs with."""
        stored: dict[str, StoredWeight] = {}
        for linear in group.linears:
            layer = compress_layer(self._assignments[linear.name], self._weights.linear(linear), statistics)
            self._layers[linear.name] = layer
            stored[linear.name] = layer.stored
            self._advance(linear.name)
        self._install(group, stored)

    def _install(self, group: LinearGroup, stored: Mapping[str, StoredWeight]) -> None:
        self._groups[group.linears[0].name] = PreparedGroup(
            handles=tuple(stored[linear.name].prepare(self._compute) for linear in group.linears),
            biases=tuple(self._weights.bias(linear) for linear in group.linears),
        )

    def _drop(self, *groups: LinearGroup) -> None:
        for group in groups:
            del self._groups[group.linears[0].name]

    def _needs_inputs(self, group: LinearGroup) -> bool:
        return any(self._assignments[linear.name].needs_inputs for linear in group.linears)

    def _wants_targets(self, group: LinearGroup) -> bool:
        return any(self._assignments[linear.name].wants_targets for linear in group.linears)
