"""What a compression job did, as data, as ``report.json``, as a table and as a page."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from flyweight import kernels
from flyweight.compression.job import Job
from flyweight.compression.layer import LayerReport
from flyweight.compression.memory import MemoryPlan, peak_resident_bytes
from flyweight.reporting import Facts, Page, Table, Text, format_bytes, format_seconds, write_page
from flyweight.version import __version__


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressionReport:
    """The outcome of a job. ``seconds`` is this run's time; layers of an interrupted run keep the times they took.

    ``peak_memory_bytes`` is of the process, ``on_disk`` names the activations that lay on disk to keep the ceiling.
    Sizes are in bytes; ``bits_per_weight`` is over the linear layers that the recipe could reach.
    """

    model: str
    out: str
    recipe: str
    calibration: str
    compute: str
    original_bytes: int
    compressed_bytes: int
    bits_per_weight: float
    seconds: float
    peak_memory_bytes: int
    predicted_memory_bytes: int
    on_disk: tuple[str, ...]
    machine: str
    version: str
    warnings: tuple[str, ...]
    layers: tuple[LayerReport, ...]

    @property
    def table(self) -> Table:
        """Layer by layer: bits, error, seconds."""
        rows = tuple(
            (
                layer.name,
                layer.format,
                layer.method or "kept",
                f"{layer.bits_per_weight:.2f}",
                f"{layer.error:.4f}" if layer.method else "",
                f"{layer.seconds:.2f}",
                "; ".join(layer.notes) if layer.method else "",
            )
            for layer in self.layers
        )
        return Table(
            title=f"{self.recipe}: {format_bytes(self.original_bytes)} -> {format_bytes(self.compressed_bytes)}",
            columns=("layer", "format", "method", "bits", "error", "seconds", "notes"),
            rows=rows,
            num_labels=3,
            note="bits: per weight, scales included; error: relative, of the layer's outputs on the calibration text "
            "where its method calibrates, else of its weight",
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


def make_report(job: Job, plan: MemoryPlan, layers: list[LayerReport], *, seconds: float) -> CompressionReport:
    """Put the report together after the last file was written to ``job.partial``."""
    parameters = sum(layer.parameters for layer in layers)
    return CompressionReport(
        model=str(job.checkpoint.folder),
        out=str(job.out),
        recipe=job.recipe.name,
        calibration="none" if job.calibration is None else job.calibration.summary,
        compute=job.compute,
        original_bytes=sum(path.stat().st_size for path in job.checkpoint.shards),
        compressed_bytes=sum(path.stat().st_size for path in job.partial.glob("*.safetensors")),
        bits_per_weight=8.0 * sum(layer.nbytes for layer in layers) / max(parameters, 1),
        seconds=seconds,
        peak_memory_bytes=peak_resident_bytes(),
        predicted_memory_bytes=plan.peak_bytes,
        on_disk=tuple(sorted(plan.spilled)),
        machine=f"{platform.machine()}, {os.cpu_count()} CPUs, {kernels.isa()} on {kernels.thread_count()} threads",
        version=__version__,
        warnings=job.warnings,
        layers=tuple(layers),
    )


def write_report(report: CompressionReport, folder: Path) -> None:
    """Write ``report.json`` and ``report.html`` into ``folder``."""
    (folder / "report.json").write_text(report.to_json() + "\n", encoding="utf-8")
    facts = {
        "model": report.model,
        "recipe": report.recipe,
        "calibration": f"{report.calibration}, computed in {report.compute}",
        "size": f"{format_bytes(report.original_bytes)} to {format_bytes(report.compressed_bytes)}",
        "bits per weight": f"{report.bits_per_weight:.3f}",
        "time of the last run": format_seconds(report.seconds),
        "peak memory": format_bytes(report.peak_memory_bytes),
        "predicted memory": format_bytes(report.predicted_memory_bytes),
        "activations on disk": ", ".join(report.on_disk) or "none",
        "machine": report.machine,
        "flyweight": report.version,
    }
    warnings = tuple(Text(text=warning) for warning in report.warnings)
    page = Page(
        title="Compression report",
        subtitle=f"{Path(report.model).name} by {report.recipe}",
        blocks=(*warnings, Facts(title="The job", facts=facts), report.table),
    )
    write_page(page, folder / "report.html")
