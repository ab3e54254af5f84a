"""Options of a kernel benchmark, and the cases that they choose. Nothing is measured here."""

from dataclasses import dataclass

from flyweight import kernels
from flyweight.bench.attention_cases import attention_groups
from flyweight.bench.cases import CaseGroup
from flyweight.bench.elementwise_cases import elementwise_groups
from flyweight.bench.linear_cases import PRECISIONS, linear_groups
from flyweight.bench.sampling_cases import sampling_groups
from flyweight.errors import UsageError
from flyweight.models.spec import ModelSpec

LAYERS = ("qkv", "output", "gate_up", "down", "head")
EVERY_ISA = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelOptions:
    """What is measured and how long.

    Raises:
        UsageError: a value is out of range.
    """

    full: bool = False
    """Every layer, row count, storage and cache type: minutes instead of less than one."""

    filter: str = ""
    """Only cases whose names hold all of these words, such as 'int4 gate_up' or 'attention'."""

    isa: tuple[str, ...] = ()
    """Instruction sets, or all; the default is the one in use."""

    threads: int | None = None
    """Threads; the default is the number of usable CPUs."""

    rounds: int = 5
    """Rounds; in each every case of a group is timed once, and medians over the rounds are printed."""

    sample_milliseconds: float = 10.0
    """A sample repeats a call until it has taken at least so long."""

    working_set_megabytes: int = 256
    """Weights, or keys and values, that successive calls walk through, so that they come from memory."""

    def __post_init__(self) -> None:
        for name, value in (
            ("rounds", self.rounds),
            ("threads", 1 if self.threads is None else self.threads),
            ("working_set_megabytes", self.working_set_megabytes),
        ):
            if value < 1:
                raise UsageError(f"{name}={value} is not allowed; choose 1 or more")
        if not self.sample_milliseconds > 0:
            raise UsageError(f"sample_milliseconds={self.sample_milliseconds} is not allowed; choose more than 0")

    def isas(self) -> tuple[str, ...]:
        """The instruction sets asked for.

        Raises:
            UsageError: one that this CPU lacks.
        """
        available = kernels.available_isas()
        if self.isa == (EVERY_ISA,):
            return available
        for name in self.isa:
            if name not in available:
                raise UsageError(f"isa={name!r} is not available; choose among {', '.join(available)}, or {EVERY_ISA}")
        return self.isa or (kernels.isa(),)

    def groups(self, spec: ModelSpec) -> list[CaseGroup]:
        """The groups of cases whose names pass the filter.

        Raises:
            UsageError: none does.
        """
        working_set = self.working_set_megabytes << 20
        found = [
            *linear_groups(
                spec,
                precisions=tuple(PRECISIONS) if self.full else ("int4-int8", "int8-int8", "bfloat16-bfloat16"),
                layers=LAYERS if self.full else ("gate_up", "down"),
                rows=(1, 2, 4, 8, 16, 32, 128, 512) if self.full else (1, 8, 32, 512),
                working_set=working_set,
            ),
            *attention_groups(
                spec,
                kv_dtypes=kernels.KV_DTYPES if self.full else ("bfloat16", "int8"),
                rows=(1, 128, 512),
                depths=(0, 4096, 32768) if self.full else (4096,),
                working_set=working_set,
            ),
            *sampling_groups(spec, rows=(1, 8, 32) if self.full else (1, 8)),
            *elementwise_groups(spec, rows=(1, 16, 512) if self.full else (1, 512)),
        ]
        words = self.filter.split()
        chosen = [group for group in found if all(word in group.name for word in words)]
        if not chosen:
            names = ", ".join(group.name for group in found)
            raise UsageError(f"filter={self.filter!r} leaves no case; the groups are {names}")
        return chosen
