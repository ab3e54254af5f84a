"""A checked job, carried out unit by unit: compress, write the shard, keep the streams, journal; then the rest.

After a kill at any moment the same job goes on from the last journalled unit and ends with the same bytes: nothing
that is written depends on time, and what is in memory between two units is on the disk before the unit is journalled.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from flyweight.checkpoint.compressed_tensors import linear_tensors, quantization_config
from flyweight.checkpoint.safetensors_file import Array, StoredTensor
from flyweight.checkpoint.writer import CheckpointWriter
from flyweight.compression import states
from flyweight.compression.activations import Activations
from flyweight.compression.block import BlockRun, Streams
from flyweight.compression.job import Job, Unit
from flyweight.compression.journal import JOURNAL_FILE, Journal, sha256_of
from flyweight.compression.layer import CompressedLayer, LayerReport, compress_layer
from flyweight.compression.sequences import Sequences
from flyweight.compression.statistics import InputStatistics
from flyweight.errors import CheckpointError
from flyweight.formats.base import Format
from flyweight.formats.plain import Plain
from flyweight.progress import Progress
from flyweight.runtime.native_ops import NativeOps, PreparedBlock

REMEDY = "give --restart to throw that away, or choose another output folder"
SCRATCH_FOLDER = "scratch"


class Driver:
    """Carries out ``job``. ``spilled``: what activations lie on disk rather than in memory (``stream``, ``inner``)."""

    def __init__(self, job: Job, progress: Progress, *, spilled: frozenset[str] = frozenset()) -> None:
        self._job, self._progress, self._spilled = job, progress, spilled
        self._scratch = job.partial / SCRATCH_FOLDER
        self._made = 0

    def run(self) -> list[LayerReport]:
        """Write the checkpoint into ``job.partial``, which is then complete but for reports and its name.

        Raises:
            UsageError: when the folder holds another job's work.
            CheckpointError: when a shard that the journal names is missing or changed.
            ResourceError: when the disk is full.
        """
        job = self._job
        writer = CheckpointWriter(job.partial)
        journal = Journal.open(job.partial, job.identity(), remedy=REMEDY)
        try:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch.mkdir()
            reports = self._adopt(writer, journal)
            self._progress.start("compress", len(job.assignments), done=len(reports))
            streams = self._open_streams(journal)
            for index in range(len(journal.entries), len(job.units)):
                reports += self._run_unit(index, writer, journal, streams)
            reports += self._finish(writer, journal, streams)
        finally:
            self._progress.finish()
            journal.close()
            shutil.rmtree(self._scratch, ignore_errors=True)
        for leftover in (journal.path, *job.partial.glob("streams-*.safetensors")):
            leftover.unlink()
        return reports

    def _adopt(self, writer: CheckpointWriter, journal: Journal) -> list[LayerReport]:
        """Take over the units that an earlier run finished, having looked at every byte of their shards."""
        reports = []
        for entry in journal.entries:
            path = self._job.partial / entry["shard"]
            if not path.is_file() or sha256_of(path) != entry["sha256"]:
                raise CheckpointError(f"{path} is not what the journal says was written; use --restart")
            writer.adopt_shard(entry["shard"])
            reports += [LayerReport(**{**layer, "notes": tuple(layer["notes"])}) for layer in entry["layers"]]
        return reports

    def _open_streams(self, journal: Journal) -> Streams | None:
        job = self._job
        if job.calibration is None or job.spec is None:
            return None
        width = job.spec.hidden_size
        streams = Streams(
            compressed=self._make("stream", width),
            original=self._make("stream", width) if job.wants_targets else None,
        )
        if journal.entries:
            states.restore(job.partial / journal.entries[-1]["streams"], streams)
        else:
            states.embed(job.checkpoint, job.spec, job.calibration.tokens, streams)
        return streams

    def _run_unit(
        self, index: int, writer: CheckpointWriter, journal: Journal, streams: Streams | None
    ) -> list[LayerReport]:
        """Compress one unit; everything it leaves is on the disk before its line is in the journal."""
        job, unit, start = self._job, self._job.units[index], time.perf_counter()
        layers = self._compress(unit, streams)
        shard = self._shard_name(index)
        writer.write_shard(shard, self._tensors(unit, layers))
        entry = {"unit": unit.name, "shard": shard, "sha256": sha256_of(job.partial / shard)}
        reports = [layer.report for layer in layers.values()]
        if streams is not None:
            entry["streams"] = f"streams-{index:05}.safetensors"
            states.save(job.partial / entry["streams"], streams)
        seconds = time.perf_counter() - start
        journal.add({**entry, "seconds": seconds, "layers": [asdict(report) for report in reports]})
        if index and streams is not None:
            (job.partial / f"streams-{index - 1:05}.safetensors").unlink(missing_ok=True)
        return reports

    def _compress(self, unit: Unit, streams: Streams | None) -> dict[str, CompressedLayer]:
        job = self._job
        if streams is None or job.spec is None or job.weights is None or unit.block is None:
            layers = {}
            for linear in unit.linears:
                layers[linear.name] = compress_layer(job.assignments[linear.name], job.read(linear), None)
                self._progress.advance(note=linear.name)
            return layers
        run = BlockRun(
            job.spec.blocks[unit.block],
            weights=job.weights,
            assignments=job.assignments,
            sequences=self._sequences,
            streams=streams,
            make=self._make,
            compute=job.compute,
            advance=lambda name: self._progress.advance(note=name),
        )
        return run.run()

    def _tensors(self, unit: Unit, layers: Mapping[str, CompressedLayer]) -> dict[str, Array | StoredTensor]:
        """The unit's shard: the layers as stored now, and whatever else the checkpoint holds of the same module."""
        tensors: dict[str, Array | StoredTensor] = {}
        for name, layer in layers.items():
            activations = self._job.assignments[name].activations
            tensors.update(linear_tensors(name, layer.stored, activations=activations))
        names = self._job.checkpoint.names
        for name in names:
            if self._owner(name) == unit.name and not self._is_replaced(name):
                tensors.setdefault(name, self._job.checkpoint.lazy(name))
        return tensors

    def _finish(self, writer: CheckpointWriter, journal: Journal, streams: Streams | None) -> list[LayerReport]:
        """The last shard (embedding, final norm, head, and what belongs to no unit), index, config and companions."""
        job, checkpoint = self._job, self._job.checkpoint
        reports = []
        tensors: dict[str, Array | StoredTensor] = {
            name: checkpoint.lazy(name)
            for name in checkpoint.names
            if self._owner(name) is None and not self._is_replaced(name)
        }
        head = None if job.spec is None or job.spec.is_tied else job.assignments[job.spec.head.linears[0].name]
        if head is not None:
            if head.format is not None:
                layer = self._compress_head(streams)
                tensors.update(linear_tensors(head.linear.name, layer.stored, activations=head.activations))
                reports.append(layer.report)
            self._progress.advance(note=head.linear.name)
        if tensors:
            writer.write_shard(self._shard_name(len(job.units)), tensors)
        writer.finish(self._config(), copied_from=checkpoint)
        return reports

    def _compress_head(self, streams: Streams | None) -> CompressedLayer:
        job = self._job
        assert job.spec is not None and job.weights is not None and job.head is not None
        statistics = None
        if streams is not None and job.head.needs_inputs:
            norm = job.spec.final_norm
            block = PreparedBlock(groups={}, norms={norm.name: job.weights.norm(norm)})
            cache = self._sequences.cache(job.spec.blocks[-1])
            ops = NativeOps(block, cache)
            statistics = InputStatistics(job.spec.hidden_size)
            for piece in self._sequences.pieces(cache):
                statistics.add(ops.norm(norm, streams.compressed.read(piece.start, piece.stop)))
        return compress_layer(job.head, job.read(job.head.linear), statistics)

    def _config(self) -> dict[str, object]:
        job = self._job
        formats: dict[str, Format] = {}
        for name, assignment in job.assignments.items():
            kept = Plain(dtype=job.weight_dtype(assignment.linear))
            formats[name] = kept if assignment.format is None else assignment.format
        ignored = [] if job.spec is None or job.head is not None else [job.spec.head.linears[0].name]
        activations = {name: assignment.activations for name, assignment in job.assignments.items()}
        config = quantization_config(formats, activations=activations, ignore=ignored or ["lm_head"])
        return {**job.checkpoint.config, "quantization_config": config}

    @property
    def _sequences(self) -> Sequences:
        assert self._job.calibration is not None
        count, length = self._job.calibration.tokens.shape
        return Sequences(count=count, length=length)

    def _make(self, kind: str, width: int) -> Activations:
        self._made += 1
        file = self._scratch / f"{self._made}" if kind in self._spilled else None
        return Activations(self._sequences.tokens, width, file=file)

    def _shard_name(self, index: int) -> str:
        return f"model-{index + 1:05}-of-{len(self._job.units) + 1:05}.safetensors"

    def _owner(self, tensor: str) -> str | None:
        """The unit to whose module a tensor belongs."""
        return next((unit.name for unit in self._job.units if tensor.startswith(f"{unit.name}.")), None)

    def _is_replaced(self, tensor: str) -> bool:
        assignment = self._job.assignments.get(tensor.removesuffix(".weight"))
        return assignment is not None and assignment.format is not None and tensor.endswith(".weight")


def remove_partial(folder: Path) -> None:
    """Delete what an interrupted job left; refuse a folder that no job of ours made.

    Raises:
        CheckpointError: when the folder holds no journal.
    """
    if not folder.exists():
        return
    if not (folder / JOURNAL_FILE).is_file() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} was not made by a compression job; remove it yourself")
    shutil.rmtree(folder)
