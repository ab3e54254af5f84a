"""What a kernel case is: something to call, and the least that it must read and compute.

Bytes and operations are what the task demands (each weight read once, two operations per multiply-add), not what a
kernel happens to do, so that shares of the machine's limits can be compared between kernels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Arithmetic = Literal["int4", "int8", "bfloat16"]
Memory = Literal["memory", "cache"]
Kind = Literal["linear", "attention", "elementwise", "sampling"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One kernel at one size.

    Attributes:
        name: what is computed, such as ``linear int4-int8 gate_up``.
        size: the sizes in words, such as ``2048 -> 16384``.
        rows: tokens in the call.
        nbytes: bytes that must be read and written.
        operations: multiplications and additions.
        arithmetic: the peak that bounds it; None where arithmetic is not what it costs.
        memory: whether its data come from memory or stay in a cache from call to call.
        call: computes it once; successive calls may use successive copies of the data.
    """

    name: str
    kind: Kind
    size: str
    rows: int
    nbytes: int
    operations: int
    arithmetic: Arithmetic | None
    memory: Memory
    call: Callable[[], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseGroup:
    """Cases that share data, such as one weight at several row counts. ``build`` makes the data when it is needed."""

    name: str
    kind: Kind
    build: Callable[[], Sequence[Case]]


def in_turn(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """One call after another, again from the first after the last: data too large for the caches is read afresh."""
    turns = _endless(calls)
    return lambda: next(turns)()


def _endless(calls: Sequence[Callable[[], object]]) -> Iterator[Callable[[], object]]:
    while True:
        yield from calls
