"""How much memory and disk a job will need, predicted from shapes; what is moved to disk to keep a ceiling.

The model counts every array that lives at the same time, stage by stage; running one block checks it. It does not
know methods by name: what a method holds is counted for the one that holds most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from flyweight.compression.job import Job
from flyweight.compression.sequences import Sequences
from flyweight.compression.statistics import TOKENS_AT_ONCE
from flyweight.errors import ResourceError
from flyweight.formats.plain import FLOAT_DTYPES
from flyweight.models.spec import BlockSpec, LinearGroup, LinearSpec
from flyweight.reporting import format_bytes

FLOAT32 = 4
ALLOWANCE = 128 << 20  # buffers of BLAS, what the allocator keeps of freed memory, shards on their way to the disk
SPILLS: tuple[frozenset[str], ...] = (frozenset(), frozenset({"inner"}), frozenset({"inner", "stream"}))
"""What may lie on disk instead of in memory, the fastest choice first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """A prediction: ``peak_bytes`` of resident memory, in ``stage``, made of ``items`` (bytes by what they hold)."""

    peak_bytes: int
    stage: str
    items: Mapping[str, int]
    spilled: frozenset[str]

    @property
    def largest(self) -> str:
        name = max(self.items, key=lambda item: self.items[item])
        return f"{name} ({format_bytes(self.items[name])})"


def plan_memory(job: Job, ceiling: int | None) -> MemoryPlan:
    """The fastest way to run ``job`` under ``ceiling`` bytes (None: what the machine has free now).

    Raises:
        ResourceError: when not even the thriftiest way fits; with the numbers.
    """
    limit = ceiling if ceiling is not None else resident_bytes() + psutil.virtual_memory().available
    plans = [predict(job, spilled) for spilled in SPILLS]
    for plan in plans:
        if plan.peak_bytes <= limit:
            return plan
    best = min(plans, key=lambda plan: plan.peak_bytes)
    given = (
        f"--memory {format_bytes(limit)}" if ceiling is not None else f"the {format_bytes(limit)} this machine has free"
    )
    remedy = "raise --memory" if ceiling is not None else "free some memory"
    if job.calibration is not None:
        remedy += ", give fewer or shorter calibration sequences, or choose a recipe without calibration such as int4"
    raise ResourceError(
        f"the job needs {format_bytes(best.peak_bytes)} of memory, more than {given}; most of it is "
        f"{best.largest}, while {best.stage}; {remedy}"
    )


def predict(job: Job, spilled: frozenset[str]) -> MemoryPlan:
    """The peak of the stage that needs most."""
    base = {"the program and the calibration text": resident_bytes() + ALLOWANCE}
    if job.calibration is None or job.spec is None:
        stages = [(f"compressing {linear.name}", _method_items(job, linear, False)) for linear in _linears(job)]
    else:
        sequences = Sequences.of(job.calibration.tokens, job.spec)
        stages = [stage for block in job.spec.blocks for stage in _block_stages(job, block, sequences, spilled)]
    stage, items = max(stages, key=lambda stage: sum(stage[1].values()))
    items = {**base, **items}
    return MemoryPlan(peak_bytes=sum(items.values()), stage=stage, items=items, spilled=spilled)


def _linears(job: Job) -> Sequence[LinearSpec]:
    return [assignment.linear for assignment in job.assignments.values()]


def _block_stages(
    job: Job, block: BlockSpec, sequences: Sequences, spilled: frozenset[str]
) -> list[tuple[str, dict[str, int]]]:
    """What lives at once at each stage of one block, by name."""
    assert job.spec is not None
    tokens, piece = sequences.tokens, sequences.tokens_at_once
    stream = 0 if "stream" in spilled else tokens * job.spec.hidden_size * FLOAT32

    def streams(num_targets: int) -> dict[str, int]:
        """The compressed stream and, with targets, the original one and targets that are not the stream itself."""
        number = 1 + (1 + num_targets if job.wants_targets else 0)
        return {"the residual streams of the calibration tokens": number * stream}

    after_mlp = 0 if block.post_mlp_norm is None else 1
    qkv, output, gate_up, down = block.groups
    stages = []
    for parts, what in (((qkv, output), "attention"), ((gate_up, down), "feed-forward")):
        width = max(group.out_features + group.in_features for group in parts)
        weights = {
            f"the {what}'s original weights": 2
            * sum(_stored_bytes(job, linear) for g in parts for linear in g.linears),
            "one piece of activations": 3 * piece * width * FLOAT32,
        }
        stages.append((f"running the original {what} of {block.prefix}", {**streams(1 + after_mlp), **weights}))
    for group in block.groups:
        feeding = qkv if group is output else gate_up if group is down else None
        items = streams((group in (qkv, output)) + after_mlp)
        observed = 3 * piece * group.in_features * FLOAT32
        if feeding is not None:
            kept = 0 if "inner" in spilled else tokens * group.in_features * FLOAT32
            items[f"the inputs of {group.linears[0].name}"] = kept
            observed += 2 * piece * feeding.out_features * FLOAT32
        items.update(_statistics_items(job, group, has_targets=feeding is not None))
        if feeding is not None:  # observing and compressing follow one another
            packed = sum(linear.in_features * linear.out_features for linear in feeding.linears)
            stages.append(
                (f"observing {group.linears[0].name}", {**items, "one piece and its weights": observed + packed})
            )
        wants_targets = any(job.assignments[linear.name].wants_targets for linear in group.linears)
        largest = max(group.linears, key=lambda linear: linear.in_features * linear.out_features)
        method = _method_items(job, largest, wants_targets and feeding is not None)
        stages.append((f"compressing {largest.name}", {**items, **method}))
    return stages


def _statistics_items(job: Job, group: LinearGroup, *, has_targets: bool) -> dict[str, int]:
    assignments = [job.assignments[linear.name] for linear in group.linears]
    if not any(assignment.needs_inputs for assignment in assignments):
        return {}
    name, n = group.linears[0].name, group.in_features
    work = 2 * TOKENS_AT_ONCE * 2 if job.compute == "bfloat16" else 0  # per input
    items = {f"the Hessian of {name} ({n} x {n})": (n * FLOAT32 + work) * n}
    if has_targets and any(assignment.wants_targets for assignment in assignments):
        items[f"the targets of {name}"] = 2 * n * group.out_features * FLOAT32
    return items


def _method_items(job: Job, linear: LinearSpec, wants_targets: bool) -> dict[str, int]:
    """Weight as stored and dense, then (ordered or grouped), errors and codes; with targets the solution's copy too."""
    weights = linear.in_features * linear.out_features
    copies = 3 + (1 if wants_targets else 0)
    return {f"the weight of {linear.name} in work": _stored_bytes(job, linear) + weights * (copies * FLOAT32 + 2)}


def _stored_bytes(job: Job, linear: LinearSpec) -> int:
    return linear.in_features * linear.out_features * FLOAT_DTYPES[job.weight_dtype(linear)].itemsize


def disk_bytes(job: Job, plan: MemoryPlan) -> int:
    """Bytes the job will have on the disk at most: the new checkpoint, and what it keeps there while it runs."""
    total = job.checkpoint.weight_bytes
    for assignment in job.assignments.values():
        if assignment.format is not None:
            linear = assignment.linear
            total -= _stored_bytes(job, linear)
            total += assignment.format.nbytes((linear.out_features, linear.in_features))
    if job.calibration is not None and job.spec is not None:
        row = job.calibration.tokens.size * FLOAT32
        streams = 2 * (1 + job.wants_targets)  # the last block's are there until the next one's are whole
        streams += (1 + 2 * job.wants_targets) if "stream" in plan.spilled else 0
        total += streams * row * job.spec.hidden_size
        if "inner" in plan.spilled:
            total += row * max(g.in_features for b in job.spec.blocks for g in (b.attention.output, b.mlp.down))
    return total


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """The largest resident memory of this process so far (0 where the system does not tell)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)
