"""A job looked at without carrying it out: one block is run to see how much memory and time the whole will take."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from flyweight.checkpoint.writer import check_free_disk
from flyweight.compression.job import check_job
from flyweight.compression.memory import disk_bytes, peak_resident_bytes, plan_memory
from flyweight.compression.options import CompressOptions
from flyweight.compression.recipe import Recipe
from flyweight.compression.rules import group_by_format
from flyweight.compression.units import UnitRunner


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressionPlan:
    """What a job would take. ``predicted_memory_bytes`` is by shapes, ``measured_memory_bytes`` the peak of the
    process after one block was run (weights read, compressed, thrown away); ``seconds`` extrapolates that block's time.

    ``layers`` counts layers by how they would be stored; ``on_disk`` tells what would lie on disk to keep the ceiling.
    """

    predicted_memory_bytes: int
    measured_memory_bytes: int
    largest_item: str
    disk_bytes: int
    seconds: float
    layers: dict[str, int]
    on_disk: tuple[str, ...]
    calibration: str
    warnings: tuple[str, ...]


def plan_compression(
    model: str | Path,
    out: str | Path,
    recipe: str | Path | Recipe = "gptq-int4",
    options: CompressOptions | None = None,
) -> CompressionPlan:
    """Check the job as :func:`flyweight.compress` would, run its first block, and write nothing.

    Raises:
        UsageError: (or a subclass) whatever the job itself would be refused for.
    """
    options = CompressOptions() if options is None else options
    job = check_job(model, out, recipe, options)
    plan = plan_memory(job, options.memory_bytes)
    needed = disk_bytes(job, plan)
    check_free_disk(job.partial, needed)
    unit = job.units[0]
    with tempfile.TemporaryDirectory() as folder:
        runner = UnitRunner(job, spilled=plan.spilled, scratch=Path(folder), advance=lambda name: None)
        runner.begin()
        start = time.perf_counter()
        runner.run(unit)
        seconds = time.perf_counter() - start
    work = [linear.in_features * linear.out_features for other in job.units for linear in other.linears]
    share = sum(linear.in_features * linear.out_features for linear in unit.linears) / sum(work)
    return CompressionPlan(
        predicted_memory_bytes=plan.peak_bytes,
        measured_memory_bytes=peak_resident_bytes(),
        largest_item=f"{plan.largest}, while {plan.stage}",
        disk_bytes=needed,
        seconds=seconds / share,
        layers=group_by_format(job.assignments),
        on_disk=tuple(sorted(plan.spilled)),
        calibration="none" if job.calibration is None else job.calibration.summary,
        warnings=job.warnings,
    )
