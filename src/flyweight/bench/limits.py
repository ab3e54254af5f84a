"""The limits of this machine, measured beside the kernels: memory bandwidth and arithmetic peaks.

The probes are native (``kernels.measure_limits``); here they are asked for several times during a run, since a shared
machine's limits move, and put in relation to what a case demands.
"""

from dataclasses import dataclass

from flyweight.bench.cases import Arithmetic, Case
from flyweight.bench.statistics import Spread


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Spreads over the probes of one run.

    Attributes:
        read_bytes: bytes per second read from memory by all threads.
        operations: operations per second of the fastest instructions of each arithmetic; those this CPU lacks at
            this instruction set are absent.
    """

    read_bytes: Spread
    operations: dict[str, Spread]

    def shortest(self, case: Case) -> float:
        """Seconds that the case takes at least: its bytes at the bandwidth or its operations at the peak."""
        return max(self.memory_seconds(case.nbytes), self.arithmetic_seconds(case.operations, case.arithmetic))

    def memory_seconds(self, nbytes: int) -> float:
        return nbytes / self.read_bytes.median

    def arithmetic_seconds(self, operations: int, arithmetic: Arithmetic) -> float:
        return operations / self.operations[arithmetic].median
