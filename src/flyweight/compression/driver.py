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
from flyweight.compression.job import Job, Unit
from flyweight.compression.journal import JOURNAL_FILE, Journal, sha256_of
from flyweight.compression.layer import CompressedLayer, LayerReport
from flyweight.compression.memory import MemoryPlan, peak_resident_bytes
from flyweight.compression.units import UnitRunner
from flyweight.errors import CheckpointError, ResourceError
from flyweight.formats.base import Format
from flyweight.formats.plain import Plain
from flyweight.progress import Progress
from flyweight.reporting import format_bytes

REMEDY = "give --restart to throw that away, or choose another output folder"
SCRATCH_FOLDER = "scratch"


class Driver:
    """Carries out ``job`` as ``plan`` says. ``ceiling``: bytes of resident memory that are not to be exceeded."""

    def __init__(self, job: Job, plan: MemoryPlan, progress: Progress, *, ceiling: int | None = None) -> None:
        self._job, self._plan, self._progress, self._ceiling = job, plan, progress, ceiling

    def run(self) -> list[LayerReport]:
        """Write the checkpoint into ``job.partial``, which is then complete but for reports and its name.

        Raises:
            UsageError: when the folder holds another job's work.
            CheckpointError: when a shard that the journal names is missing or changed.
            ResourceError: when the disk is full, or the first unit shows that the ceiling cannot be kept.
        """
        job = self._job
        scratch = job.partial / SCRATCH_FOLDER
        writer = CheckpointWriter(job.partial)
        journal = Journal.open(job.partial, job.identity(), remedy=REMEDY)
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            reports = self._adopt(writer, journal)
            self._progress.start("compress", len(job.assignments), done=len(reports))
            runner = UnitRunner(
                job,
                spilled=self._plan.spilled,
                scratch=scratch,
                advance=lambda name: self._progress.advance(note=name),
            )
            self._resume(runner, journal)
            for index in range(len(journal.entries), len(job.units)):
                before = peak_resident_bytes()
                reports += self._run_unit(index, writer, journal, runner)
                self._check_ceiling(before, index)
            reports += self._finish(writer, runner)
        finally:
            self._progress.finish()
            journal.close()
            shutil.rmtree(scratch, ignore_errors=True)
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

    def _resume(self, runner: UnitRunner, journal: Journal) -> None:
        if not journal.entries:
            runner.begin()
        elif runner.streams is not None:
            states.restore(self._job.partial / journal.entries[-1]["streams"], runner.streams)

    def _run_unit(
        self, index: int, writer: CheckpointWriter, journal: Journal, runner: UnitRunner
    ) -> list[LayerReport]:
        """Compress one unit; everything it leaves is on the disk before its line is in the journal."""
        job, unit, start = self._job, self._job.units[index], time.perf_counter()
        layers = runner.run(unit)
        shard = self._shard_name(index)
        writer.write_shard(shard, self._tensors(unit, layers))
        entry = {"unit": unit.name, "shard": shard, "sha256": sha256_of(job.partial / shard)}
        reports = [layer.report for layer in layers.values()]
        if runner.streams is not None:
            entry["streams"] = f"streams-{index:05}.safetensors"
            states.save(job.partial / entry["streams"], runner.streams)
        seconds = time.perf_counter() - start
        journal.add({**entry, "seconds": seconds, "layers": [asdict(report) for report in reports]})
        if index and runner.streams is not None:
            (job.partial / f"streams-{index - 1:05}.safetensors").unlink(missing_ok=True)
        return reports

    def _check_ceiling(self, before: int, index: int) -> None:
        """Stop a job whose block needed more than allowed; what is finished stays for a higher ceiling."""
        peak = peak_resident_bytes()
        if self._ceiling is None or peak <= max(self._ceiling, before):
            return
        raise ResourceError(
            f"running {self._job.units[index].name} took {format_bytes(peak)} of memory, more than --memory "
            f"{format_bytes(self._ceiling)} (predicted were {format_bytes(self._plan.peak_bytes)}, most of it "
            f"{self._plan.largest}); raise --memory: the same command then goes on from here"
        )

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

    def _finish(self, writer: CheckpointWriter, runner: UnitRunner) -> list[LayerReport]:
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
                layer = runner.run_head()
                tensors.update(linear_tensors(head.linear.name, layer.stored, activations=head.activations))
                reports.append(layer.report)
            self._progress.advance(note=head.linear.name)
        if tensors:
            writer.write_shard(self._shard_name(len(job.units)), tensors)
        writer.finish(self._config(), copied_from=checkpoint)
        return reports

    def _config(self) -> dict[str, object]:
        job = self._job
        formats: dict[str, Format] = {}
        for name, assignment in job.assignments.items():
            kept = Plain(dtype=job.weight_dtype(assignment.linear))
            formats[name] = kept if assignment.format is None else assignment.format
        head = "lm_head" if job.spec is None else job.spec.head.linears[0].name
        ignored = [head] if job.head is None else []
        activations = {name: assignment.activations for name, assignment in job.assignments.items()}
        config = quantization_config(formats, activations=activations, ignore=ignored)
        return {**job.checkpoint.config, "quantization_config": config}

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
