"""Runs one unit of a job: a decoder block through calibration, or layers whose methods need no inputs.

It knows neither shards nor the journal.
"""

from collections.abc import Callable
from pathlib import Path

from flyweight.compression import states
from flyweight.compression.activations import Activations
from flyweight.compression.block import BlockRun, Streams
from flyweight.compression.job import Job, Unit
from flyweight.compression.layer import CompressedLayer, compress_layer
from flyweight.compression.sequences import Sequences
from flyweight.compression.statistics import InputStatistics
from flyweight.runtime.native_ops import NativeOps, PreparedBlock


class UnitRunner:
    """Compresses units of ``job`` in order.

    ``spilled``: which activations lie on disk, in the folder ``scratch``, rather than in memory (``stream``,
    ``inner``). ``advance`` is called with the name of every layer that is done.
    """

    def __init__(self, job: Job, *, spilled: frozenset[str], scratch: Path, advance: Callable[[str], None]) -> None:
        self._job, self._spilled, self._scratch, self._advance = job, spilled, scratch, advance
        self._made = 0
        self._streams: Streams | None = None
        if job.calibration is not None and job.spec is not None:
            width = job.spec.hidden_size
            self._streams = Streams(
                compressed=self._make("stream", width),
                original=self._make("stream", width) if job.wants_targets else None,
            )

    @property
    def streams(self) -> Streams | None:
        """The residual streams behind the last unit; None where nothing calibrates."""
        return self._streams

    def begin(self) -> None:
        """Fill the streams with the embeddings of the calibration tokens."""
        if self._streams is not None:
            assert self._job.spec is not None
            assert self._job.calibration is not None
            states.embed(self._job.checkpoint, self._job.spec, self._job.calibration.tokens, self._streams)

    def run(self, unit: Unit) -> dict[str, CompressedLayer]:
        """Compress the layers of ``unit``; the streams move behind it."""
        job = self._job
        if self._streams is None or job.spec is None or job.weights is None or unit.block is None:
            layers = {}
            for linear in unit.linears:
                layers[linear.name] = compress_layer(job.assignments[linear.name], job.read(linear), None)
                self._advance(linear.name)
            return layers
        return BlockRun(
            job.spec.blocks[unit.block],
            weights=job.weights,
            assignments=job.assignments,
            sequences=self._sequences,
            streams=self._streams,
            make=self._make,
            compute=job.compute,
            advance=self._advance,
        ).run()

    def run_head(self) -> CompressedLayer:
        """Compress the output head; the streams must be behind the last block."""
        job = self._job
        assert job.spec is not None
        assert job.weights is not None
        assert job.head is not None
        statistics = None
        if self._streams is not None and job.head.needs_inputs:
            norm = job.spec.final_norm
            cache = self._sequences.cache(job.spec.blocks[-1])
            ops = NativeOps(PreparedBlock(groups={}, norms={norm.name: job.weights.norm(norm)}), cache)
            statistics = InputStatistics(job.spec.hidden_size, compute=job.compute)
            for piece in self._sequences.pieces(cache):
                statistics.add(ops.norm(norm, self._streams.compressed.read(piece.start, piece.stop)))
        return compress_layer(job.head, job.read(job.head.linear), statistics)

    @property
    def _sequences(self) -> Sequences:
        assert self._job.calibration is not None
        assert self._job.spec is not None
        return Sequences.of(self._job.calibration.tokens, self._job.spec)

    def _make(self, kind: str, width: int) -> Activations:
        self._made += 1
        file = self._scratch / f"{self._made}" if kind in self._spilled else None
        return Activations(self._sequences.tokens, width, file=file)
