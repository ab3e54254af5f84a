"""Every kernel against the limits of this machine, measured in the same run.

Groups of cases are built one after another; within a group each round times every case once. The limits are probed
before, between and after the groups.
"""

import datetime as dt
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from flyweight import kernels
from flyweight.bench.cases import Case, CaseGroup
from flyweight.bench.kernel_options import KernelOptions
from flyweight.bench.kernel_report import KernelReport, KernelResult
from flyweight.bench.limits import MachineLimits
from flyweight.bench.shapes import read_shape
from flyweight.bench.statistics import Spread, summarize
from flyweight.machine import Machine
from flyweight.progress import Progress, Silent
from flyweight.version import __version__

USUAL_SHAPE = "llama-3.2-1b"
GROUPS_PER_PROBE = 4
PROBE_BYTES = 512 << 20

Probe = Callable[[], kernels.Limits]


def measure_kernels(
    model: str = USUAL_SHAPE,
    options: KernelOptions | None = None,
    *,
    probe: Probe = lambda: kernels.measure_limits(read_bytes=PROBE_BYTES, attempts=3),
    progress: Progress | None = None,
) -> KernelReport:
    """Time the kernels at a model's sizes.

    Args:
        model: a preset (``bench.shapes.PRESETS``), a config.json or a folder with one; no weights are read.
        probe: measures the limits with the instruction set and threads in use.

    Raises:
        UsageError: an unknown shape, an instruction set that this CPU lacks, or a filter that leaves nothing.
        KernelError: a kernel refuses its case.
    """
    options = options if options is not None else KernelOptions()
    progress = progress if progress is not None else Silent()
    spec = read_shape(model)
    isas, groups = options.isas(), options.groups(spec)
    limits, results = [], []
    with nullcontext() if options.threads is None else kernels.use_threads(options.threads):
        progress.start("kernels", len(isas) * len(groups))
        for isa in isas:
            with kernels.use_isa(isa):
                found, timed = _measure_isa(groups, options, probe, progress)
            limits.append(found)
            results += [_result(isa, case, seconds, found) for case, seconds in timed]
        progress.finish()
    return KernelReport(
        flyweight_version=__version__,
        machine=Machine.detect().describe(),
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        shape=model,
        rounds=options.rounds,
        limits=tuple(limits),
        results=tuple(results),
    )


def _measure_isa(
    groups: Sequence[CaseGroup], options: KernelOptions, probe: Probe, progress: Progress
) -> tuple[MachineLimits, list[tuple[Case, Spread]]]:
    probes, timed = [], []
    for number, group in enumerate(groups):
        if number % GROUPS_PER_PROBE == 0:
            probes.append(probe())
        progress.advance(0, note=group.name)
        timed += time_group(group.build(), options.rounds, options.sample_milliseconds / 1000)
        progress.advance(note=group.name)
    probes.append(probe())
    return MachineLimits.of(probes), timed


def time_group(cases: Sequence[Case], rounds: int, sample_seconds: float) -> list[tuple[Case, Spread]]:
    """Seconds of one call of each case: a spread over ``rounds`` samples, in each of which every case has its turn."""
    repeats = [_repeats(case.call, sample_seconds) for case in cases]
    samples: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for case, count, mine in zip(cases, repeats, samples, strict=True):
            mine.append(_time(case.call, count) / count)
    return [(case, summarize(mine)) for case, mine in zip(cases, samples, strict=True)]


def _repeats(call: Callable[[], object], sample_seconds: float) -> int:
    """Calls that fill a sample; finding it out is the warm-up."""
    call()
    return max(1, round(sample_seconds / max(_time(call, 3) / 3, 1e-9)))


def _time(call: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - began


def _result(isa: str, case: Case, seconds: Spread, limits: MachineLimits) -> KernelResult:
    return KernelResult(
        isa=isa,
        name=case.name,
        kind=case.kind,
        size=case.size,
        rows=case.rows,
        nbytes=case.nbytes,
        operations=case.operations,
        arithmetic=case.arithmetic,
        memory=case.memory,
        seconds=seconds,
        memory_share=limits.transfer_seconds(case) / seconds.median,
        arithmetic_share=limits.compute_seconds(case) / seconds.median,
    )
