"""The limits of this machine beside the kernels: how often they are probed, and what a case takes at least.

A shared machine's limits move from minute to minute, so they are probed several times during a run, with the
instruction set and threads of the kernels, and their medians count. The probes are ``kernels.measure_limits``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from flyweight import kernels
from flyweight.bench.cases import Arithmetic, Case, Memory
from flyweight.bench.statistics import Spread, summarize


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineLimits:
    """Spreads over the probes of one run on one instruction set.

    Attributes:
        bandwidth: bytes per second read by all threads, from ``memory`` and from a ``cache``.
        rate: multiplications plus additions per second of the kernels' instructions: ``int4``, codes of four bits with
            int8 inputs, ``int8`` and ``bfloat16``.
    """

    isa: str
    threads: int
    bandwidth: dict[Memory, Spread]
    rate: dict[Arithmetic, Spread]

    @classmethod
    def of(cls, probes: Sequence[kernels.Limits]) -> Self:
        """The limits that at least one probe found."""
        return cls(
            isa=probes[0].isa,
            threads=probes[0].threads,
            bandwidth={
                "memory": summarize([one.read_bandwidth for one in probes]),
                "cache": summarize([one.cached_bandwidth for one in probes]),
            },
            rate={
                "int4": summarize([one.int4_rate for one in probes]),
                "int8": summarize([one.int8_rate for one in probes]),
                "bfloat16": summarize([one.bfloat16_rate for one in probes]),
            },
        )

    def transfer_seconds(self, case: Case) -> float:
        """What moving the case's bytes takes at least."""
        return case.nbytes / self.bandwidth[case.memory].median

    def compute_seconds(self, case: Case) -> float:
        """What the case's operations take at least; 0 where arithmetic is not what it costs."""
        return 0.0 if case.arithmetic is None else case.operations / self.rate[case.arithmetic].median
