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


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Where a matrix lies: its region, where it begins there in numbers per row, and numbers from row to row."""

    region: RegionName
    offset: int
    stride: int


def place(program: StepProgram) -> dict[Matrix, Room]:
    """Where each matrix lies.

    Hidden rows and logits have regions of their own, all others an arena of their kind of rows. Two matrices share
    numbers only where the first is no longer read when the second is written, or where an instruction goes number by
    number and writes over its own input: an addition or a cap, so that logits exist once, and the product of gate and
    up, the widest of all, in the place of gate.
    """
    instructions = program.instructions
    last_read = {view.matrix: index for index, one in enumerate(instructions) for view in one.reads}
    gaps_allowed = _read_by_linears_only(instructions)
    rooms = {program.hidden: _room("hidden", program.hidden), program.logits: _room("logits", program.logits)}
    last = instructions[-1]
    if isinstance(last, Cap):
        rooms[last.x.matrix] = rooms[program.logits]
    live: dict[Matrix, Room] = {}
    for index, one in enumerate(instructions):
        ending = [view.matrix for view in one.reads if last_read[view.matrix] == index]
        if one.out not in rooms:
            reused = _reusable(one, [matrix for matrix in ending if matrix in live], gaps_allowed)
            if reused is None:
                live[one.out] = Room(region=one.out.rows, offset=_first_gap(one.out, live), stride=one.out.width)
            else:
                live[one.out] = live.pop(reused)
            rooms[one.out] = live[one.out]
        for matrix in ending:
            live.pop(matrix, None)
    return rooms


def _room(region: RegionName, matrix: Matrix) -> Room:
    return Room(region=region, offset=0, stride=matrix.width)


def _read_by_linears_only(instructions: Sequence[Instruction]) -> set[Matrix]:
    """Results whose rows may lie apart."""
    others = {view.matrix for one in instructions if not isinstance(one, Linear) for view in one.reads}
    return {one.out for one in instructions} - others


def _reusable(one: Instruction, ending: Sequence[Matrix], gaps_allowed: set[Matrix]) -> Matrix | None:
    """Which of the inputs that nothing reads later the result may be written over."""
    if isinstance(one, ActMul) and one.out in gaps_allowed and one.x.is_whole:
        return next(iter(ending), None)
    if not isinstance(one, (Add, Cap)):
        return None
    fitting = (matrix for matrix in ending if (matrix.rows, matrix.width) == (one.out.rows, one.out.width))
    return next(fitting, None)


def _first_gap(matrix: Matrix, live: dict[Matrix, Room]) -> int:
    start = 0
    taken = ((room.offset, room.stride) for room in live.values() if room.region == matrix.rows)
    for offset, width in sorted(taken):
        if offset - start >= matrix.width:
            break
        start = max(start, -(-(offset + width) // LINE) * LINE)
    return start
