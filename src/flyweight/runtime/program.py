"""A step as data: the instructions that a walk of the decoder calls for, and where their results may lie.

``fuse`` joins instructions, ``place`` lays matrices whose lives do not overlap over one another. Nothing here computes
or knows how the instructions are run.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from flyweight.kernels import RegionName
from flyweight.models.spec import Activation, AttentionSpec, EmbeddingSpec, LinearGroup, NormSpec, RopeSpec

RowKind = Literal["tokens", "outputs"]
LINE = 16  # float32 numbers in a cache line: matrices begin on one


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Matrix:
    """A result: a row of ``width`` numbers for each token of a step, or for each wanted output."""

    rows: RowKind
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Columns ``start`` to ``start + width`` of a matrix."""

    matrix: Matrix
    start: int
    width: int

    @property
    def is_whole(self) -> bool:
        return self.width == self.matrix.width


@dataclass(frozen=True, kw_only=True, slots=True)
class Embed:
    embedding: EmbeddingSpec
    out: Matrix

    @property
    def reads(self) -> tuple[View, ...]:
        return ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    group: LinearGroup
    x: View
    out: Matrix

    @property
    def reads(self) -> tuple[View, ...]:
        return (self.x,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    """Each of the ``heads`` equal parts of a row of ``x``: norm, then rotation, where given; else a copy."""

    x: View
    out: Matrix
    heads: int
    norm: NormSpec | None = None
    rope: RopeSpec | None = None

    @property
    def reads(self) -> tuple[View, ...]:
        return (self.x,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attend:
    attention: AttentionSpec
    layer: int
    q: View
    k: View
    v: View
    out: Matrix

    @property
    def reads(self) -> tuple[View, ...]:
        return (self.q, self.k, self.v)


@dataclass(frozen=True, kw_only=True, slots=True)
class ActMul:
    activation: Activation
    x: View
    out: Matrix

    @property
    def reads(self) -> tuple[View, ...]:
        return (self.x,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Add:
    """``x + scale * y``."""

    x: View
    y: View
    scale: float
    out: Matrix

    @property
    def reads(self) -> tuple[View, ...]:
        return (self.x, self.y)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cap:
    x: View
    scale: float
    softcap: float
    out: Matrix

    @property
    def reads(self) -> tuple[View, ...]:
        return (self.x,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Select:
    """The rows of wanted outputs."""

    x: View
    out: Matrix

    @property
    def reads(self) -> tuple[View, ...]:
        return (self.x,)


Instruction = Embed | Linear | Heads | Attend | ActMul | Add | Cap | Select


@dataclass(frozen=True, kw_only=True, slots=True)
class StepProgram:
    """A whole step: ``body`` ends with the hidden rows, from which ``head`` makes the logits."""

    body: tuple[Instruction, ...]
    head: tuple[Instruction, ...]
    hidden: Matrix
    logits: Matrix

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        return self.body + self.head

    @property
    def ropes(self) -> tuple[RopeSpec, ...]:
        """The different rotations, in the order of their first use."""
        used = [one.rope for one in self.instructions if isinstance(one, Heads) and one.rope is not None]
        return tuple(dict.fromkeys(used))


def fuse(instructions: Iterable[Instruction]) -> tuple[Instruction, ...]:
    """The same results by fewer instructions: a norm of heads and the rotation of its result become one.

    Sums keep their order, so every bit of every result stays.
    """
    originals = tuple(instructions)
    reads = Counter(view.matrix for one in originals for view in one.reads)
    fused: dict[Matrix, Instruction] = {}
    for one in originals:
        if isinstance(one, Heads) and one.norm is None and one.x.is_whole and reads[one.x.matrix] == 1:
            before = fused.get(one.x.matrix)
            # A norm over all heads at once has one part where the rotation has many.
            if isinstance(before, Heads) and before.rope is None and before.heads == one.heads:
                del fused[before.out]
                one = replace(one, x=before.x, norm=before.norm)
        fused[one.out] = one
    return tuple(fused.values())


def place(program: StepProgram) -> dict[Matrix, tuple[RegionName, int]]:
    """Where each matrix lies: its region, and where it begins there in numbers per row.

    Hidden rows and logits have regions of their own, all others an arena of their kind of rows. Two matrices share
    numbers only where the first is no longer read when the second is written. The result of an addition or a cap may be
    its own input, since these go number by number; so that logits exist once.
    """
    instructions = program.instructions
    last_read = {view.matrix: index for index, one in enumerate(instructions) for view in one.reads}
    places: dict[Matrix, tuple[RegionName, int]] = {program.hidden: ("hidden", 0), program.logits: ("logits", 0)}
    last = instructions[-1]
    if isinstance(last, Cap):
        places[last.x.matrix] = ("logits", 0)
    live: dict[Matrix, int] = {}
    for index, one in enumerate(instructions):
        ending = [view.matrix for view in one.reads if last_read[view.matrix] == index]
        if one.out not in places:
            reused = _reusable(one, ending, live)
            live[one.out] = _first_gap(one.out, live) if reused is None else live.pop(reused)
            places[one.out] = (one.out.rows, live[one.out])
        for matrix in ending:
            live.pop(matrix, None)
    return places


def _reusable(one: Instruction, ending: Sequence[Matrix], live: dict[Matrix, int]) -> Matrix | None:
    if not isinstance(one, (Add, Cap)):
        return None
    fitting = (m for m in ending if m in live and (m.rows, m.width) == (one.out.rows, one.out.width))
    return next(fitting, None)


def _first_gap(matrix: Matrix, live: dict[Matrix, int]) -> int:
    start = 0
    taken = ((offset, other.width) for other, offset in live.items() if other.rows == matrix.rows)
    for offset, width in sorted(taken):
        if offset - start >= matrix.width:
            break
        start = max(start, -(-(offset + width) // LINE) * LINE)
    return start
