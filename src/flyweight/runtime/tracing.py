"""Ops that compute nothing and write down what they are asked for: the decoder walked once becomes a program.

So the decoder stays the only place that knows what a model does. What a program cannot express is an error here, when
it is built.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from flyweight.models.spec import Activation, AttentionSpec, EmbeddingSpec, LinearGroup, ModelSpec, NormSpec, RopeSpec
from flyweight.runtime.batch import Batch, IntArray
from flyweight.runtime.decoder import run_blocks, run_head
from flyweight.runtime.program import (
    ActMul,
    Add,
    Attend,
    Cap,
    Embed,
    Heads,
    Instruction,
    Linear,
    Matrix,
    RowKind,
    Select,
    StepProgram,
    View,
    fuse,
)


class UntraceableError(Exception):
    """The decoder asked for something that a program has no instruction for: our own mistake, not a user's."""


def trace(spec: ModelSpec) -> StepProgram:
    """The program of a model's step.

    Raises:
        UntraceableError: when the decoder does what no instruction expresses.
    """
    ops = TracingOps()
    hidden = run_blocks(spec, ops, ops.batch)
    body_length = len(ops.instructions)
    logits = run_head(spec, ops, hidden)
    return StepProgram(
        body=fuse(ops.instructions[:body_length]),
        head=fuse(ops.instructions[body_length:]),
        hidden=_whole(hidden),
        logits=_whole(logits),
    )


class TracingOps:
    """``Ops`` on symbols. ``instructions`` is what was asked for so far."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self.batch = _stand_in()

    def embed(self, embedding: EmbeddingSpec, token_ids: IntArray) -> "Symbol":
        if token_ids is not self.batch.token_ids:
            raise UntraceableError("only the batch's own token ids can be embedded")
        return self._add(Embed(embedding=embedding, out=Matrix(rows="tokens", width=embedding.hidden_size)))

    def linear(self, group: LinearGroup, x: "Symbol") -> "Symbol":
        return self._add(Linear(group=group, x=_rows(x), out=_like(x, group.out_features)))

    def norm(self, norm: NormSpec, x: "Symbol") -> "Symbol":
        if x.shape[-1] != norm.size:
            raise UntraceableError(f"norm {norm.name} is for {norm.size} features, not {x.shape[-1]}")
        return self._add(Heads(x=x.view, out=_like(x, x.view.width), heads=x.heads or 1, norm=norm), x.heads)

    def rope(self, rope: RopeSpec, x: "Symbol", batch: Batch) -> "Symbol":
        if x.heads is None or x.view.matrix.rows != "tokens" or batch is not self.batch:
            raise UntraceableError(f"rotation of {x.shape}; heads of the batch's tokens are needed")
        return self._add(Heads(x=x.view, out=_like(x, x.view.width), heads=x.heads, rope=rope), x.heads)

    def attend(
        self, attention: AttentionSpec, layer: int, q: "Symbol", k: "Symbol", v: "Symbol", batch: Batch
    ) -> "Symbol":
        if any(one.view.matrix.rows != "tokens" for one in (q, k, v)) or batch is not self.batch:
            raise UntraceableError("attention needs all tokens of the batch")
        q_rows, k_rows, v_rows = (self._without_gaps(one) for one in (q, k, v))
        out = _like(q, attention.num_heads * attention.head_dim)
        return self._add(Attend(attention=attention, layer=layer, q=q_rows, k=k_rows, v=v_rows, out=out))

    def act_mul(self, activation: Activation, gate_up: "Symbol") -> "Symbol":
        x = self._without_gaps(gate_up)
        return self._add(ActMul(activation=activation, x=x, out=_like(gate_up, x.width // 2)))

    def add(self, x: "Symbol", y: "Symbol", scale: float) -> "Symbol":
        if x.shape != y.shape:
            raise UntraceableError(f"sum of {x.shape} and {y.shape}")
        out = _like(x, x.view.width)
        return self._add(Add(x=self._without_gaps(x), y=self._without_gaps(y), scale=scale, out=out))

    def cap(self, x: "Symbol", scale: float, softcap: float) -> "Symbol":
        if scale == 1.0 and not softcap:
            return x
        return self._add(Cap(x=self._without_gaps(x), scale=scale, softcap=softcap, out=_like(x, x.view.width)))

    def select(self, x: "Symbol") -> "Symbol":
        """The wanted rows of ``x``."""
        if x.heads is not None or x.view.matrix.rows != "tokens":
            raise UntraceableError(f"wanted rows of {x.shape}; a matrix with a row for each token is needed")
        return self._add(Select(x=self._without_gaps(x), out=Matrix(rows="outputs", width=x.view.width)))

    def _without_gaps(self, x: "Symbol") -> View:
        if x.view.is_whole:
            return x.view
        out = _like(x, x.view.width)
        self.instructions.append(Heads(x=x.view, out=out, heads=x.heads or 1))
        return _view(out)

    def _add(self, one: Instruction, heads: int | None = None) -> "Symbol":
        self.instructions.append(one)
        return Symbol(view=_view(one.out), ops=self, heads=heads)


@dataclass(frozen=True, kw_only=True, slots=True)
class Symbol:
    """An activation to be: (rows, width), or (rows, heads, width of one) when ``heads`` is set."""

    view: View
    ops: TracingOps
    heads: int | None = None

    @property
    def shape(self) -> tuple[RowKind, int] | tuple[RowKind, int, int]:
        rows, width = self.view.matrix.rows, self.view.width
        return (rows, width) if self.heads is None else (rows, self.heads, width // self.heads)

    def reshape(self, rows: RowKind, heads: int, head_dim: int) -> "Symbol":
        if rows != self.view.matrix.rows or heads * head_dim != self.view.width:
            raise UntraceableError(f"{self.shape} cannot become {(rows, heads, head_dim)}")
        return Symbol(view=self.view, ops=self.ops, heads=heads)

    def __getitem__(self, index: Any) -> "Symbol":
        """All rows of some columns, or the batch's ``output_rows``."""
        if index is self.ops.batch.output_rows:
            return self.ops.select(self)
        match index:
            case (slice(start=None, stop=None, step=None), slice(start=start, stop=stop, step=None)) if not self.heads:
                first, last, _ = slice(start, stop).indices(self.view.width)
                return Symbol(
                    view=View(matrix=self.view.matrix, start=self.view.start + first, width=last - first), ops=self.ops
                )
        raise UntraceableError(f"{self.shape}[{index}]: a program has columns of all rows, or the wanted rows")


def _stand_in() -> Batch:
    """A batch to be recognized, with nothing in it."""
    nothing, also_nothing = np.zeros(0, np.int32), np.zeros(0, np.int64)
    return Batch(
        token_ids=nothing,
        positions=nothing,
        query_starts=nothing,
        context_lengths=nothing,
        block_tables=np.zeros((0, 0), np.int32),
        slots=also_nothing,
        output_rows=np.zeros(0, np.int64),
    )


def _view(matrix: Matrix) -> View:
    return View(matrix=matrix, start=0, width=matrix.width)


def _like(x: Symbol, width: int) -> Matrix:
    return Matrix(rows=x.view.matrix.rows, width=width)


def _rows(x: Symbol) -> View:
    if x.heads is not None:
        raise UntraceableError(f"a linear layer reads rows, not {x.shape}")
    return x.view


def _whole(x: Symbol) -> Matrix:
    if not x.view.is_whole:
        raise UntraceableError("a step's result is part of a matrix")
    return x.view.matrix
