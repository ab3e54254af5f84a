"""The public function: check, carry out, report."""

import os
import time
from pathlib import Path

from flyweight.checkpoint.writer import check_free_disk
from flyweight.compression.driver import Driver, remove_partial
from flyweight.compression.job import check_job
from flyweight.compression.memory import disk_bytes, plan_memory
from flyweight.compression.options import CompressOptions
from flyweight.compression.recipe import Recipe
from flyweight.compression.report import CompressionReport, make_report, write_report
from flyweight.progress import Progress, Silent


def compress(
    model: str | Path,
    out: str | Path,
    recipe: str | Path | Recipe = "gptq-int4",
    options: CompressOptions | None = None,
    *,
    progress: Progress | None = None,
) -> CompressionReport:
    """Compress the checkpoint ``model`` (a folder or a hub id) into the new folder ``out``.

    ``recipe`` is a preset's name, the path of a YAML file, or a :class:`Recipe`. The output is a compressed-tensors
    checkpoint with the tokenizer and the configs copied, and a report (``report.json``, ``report.html``). It grows in
    ``OUT.partial``; a job that was interrupted goes on from the last finished block when it is called again, and its
    checkpoint has the same bytes as that of an uninterrupted one (the report has not: it tells times).

    Raises:
        UsageError: (or a subclass) before any long work, when the request cannot be carried out as given.
        ResourceError: when memory or disk would not suffice.
    """
    start = time.perf_counter()
    options = CompressOptions() if options is None else options
    listener = Silent() if progress is None else progress
    job = check_job(model, out, recipe, options)
    if options.restart:
        remove_partial(job.partial)
    plan = plan_memory(job, options.memory_bytes)
    check_free_disk(job.partial, disk_bytes(job, plan) - _bytes_in(job.partial))
    layers = Driver(job, plan, listener, ceiling=options.memory_bytes).run()
    report = make_report(job, plan, layers, seconds=time.perf_counter() - start)
    write_report(report, job.partial)
    os.rename(job.partial, job.out)
    return report


def _bytes_in(folder: Path) -> int:
    """What an interrupted job has already written."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
