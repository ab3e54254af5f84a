"""The native backend in one call a step: a traced program bound to prepared weights and a cache.

``NativeOps`` is its twin: the same kernels, one call each. It does not know who plans batches.
"""

from collections.abc import Mapping

import numpy as np

from flyweight import kernels
from flyweight.checkpoint.safetensors_file import StoredTensor
from flyweight.formats.base import Array
from flyweight.models.spec import ModelSpec
from flyweight.runtime import program as steps
from flyweight.runtime.batch import Batch
from flyweight.runtime.kv_cache import KVCache
from flyweight.runtime.prepared import PreparedWeights
from flyweight.runtime.program import Matrix, View
from flyweight.runtime.rope_tables import RopeTables
from flyweight.runtime.tracing import trace


class NativeRuntime:
    """A ``Runner``: a whole model over prepared weights and one cache."""

    def __init__(self, spec: ModelSpec, weights: PreparedWeights, cache: KVCache) -> None:
        self._step = trace(spec)
        self._weights = weights
        self.cache = cache
        self._places = steps.place(self._step)
        self._ropes = {rope: RopeTables(rope) for rope in self._step.ropes}
        self._program = kernels.Program(
            hidden_size=self._step.hidden.width,
            logits_size=self._step.logits.width,
            rotary_dims=[rope.rotary_dim for rope in self._ropes],
        )
        self._names: list[str] = []  # of the kinds of instructions, for each
        for one in self._step.body:
            self._append(one)
        self._program.begin_head()
        for one in self._step.head:
            self._append(one)

    def forward(self, batch: Batch) -> Array:
        hidden, logits = self._hidden_rows(batch), self._logit_rows(len(batch.output_rows))
        self._program.run(self._arrays(batch), hidden, logits)
        return logits

    def hidden(self, batch: Batch) -> Array:
        hidden = self._hidden_rows(batch)
        self._program.run(self._arrays(batch), hidden)
        return hidden

    def logits(self, hidden: Array) -> Array:
        logits = self._logit_rows(len(hidden))
        self._program.run_head(hidden, logits)
        return logits

    def profile(self, batch: Batch) -> Mapping[str, float]:
        """Seconds that each kind of instruction takes in a step like ``forward``'s, measured inside the one call."""
        seconds = np.zeros(len(self._program))
        hidden, logits = self._hidden_rows(batch), self._logit_rows(len(batch.output_rows))
        self._program.run(self._arrays(batch), hidden, logits, seconds)
        total = dict.fromkeys(self._names, 0.0)
        for name, spent in zip(self._names, seconds.tolist(), strict=True):
            total[name] += spent
        return total

    def _hidden_rows(self, batch: Batch) -> Array:
        return np.empty((len(batch.output_rows), self._step.hidden.width), np.float32)

    def _logit_rows(self, rows: int) -> Array:
        return np.empty((rows, self._step.logits.width), np.float32)

    def _arrays(self, batch: Batch) -> kernels.StepArrays:
        return kernels.StepArrays(
            token_ids=batch.token_ids,
            query_starts=batch.query_starts,
            context_lengths=batch.context_lengths,
            block_tables=batch.block_tables,
            slots=batch.slots,
            output_rows=batch.output_rows,
            ropes=[tables.rows(batch) for tables in self._ropes.values()],
        )

    def _append(self, one: steps.Instruction) -> None:
        before = len(self._program)
        match one:
            case steps.Embed():
                self._append_embed(one)
            case steps.Linear():
                self._append_linear(one)
            case steps.Heads():
                self._append_heads(one)
            case steps.Attend():
                self._append_attend(one)
            case steps.ActMul():
                self._program.act_mul(self._at(one.x), self._out(one.out), one.activation)
            case steps.Add():
                self._program.add(self._at(one.x), self._at(one.y), self._out(one.out), one.scale)
            case steps.Cap():
                self._program.cap(self._at(one.x), self._out(one.out), one.scale, one.softcap)
            case steps.Select():
                self._program.select(self._at(one.x), self._out(one.out))
        self._names += [type(one).__name__.lower()] * (len(self._program) - before)

    def _append_embed(self, one: steps.Embed) -> None:
        table, scale, out = self._weights.embedding, one.embedding.scale, self._out(one.out)
        if not isinstance(table, StoredTensor):
            self._program.embed(table, scale, out)
            return
        descriptor, offset = table.place
        self._program.embed_from_file(
            descriptor=descriptor, offset=offset, vocab_size=table.shape[0], dtype=table.dtype, scale=scale, out=out
        )

    def _append_linear(self, one: steps.Linear) -> None:
        prepared = self._weights.groups[one.group.linears[0].name]
        start = 0
        for handle, bias in zip(prepared.handles, prepared.biases, strict=True):
            out = View(matrix=one.out, start=start, width=handle.out_features)
            self._program.linear(handle, bias, self._at(one.x), self._at(out))
            start += handle.out_features

    def _append_heads(self, one: steps.Heads) -> None:
        norm = one.norm
        self._program.heads(
            self._at(one.x),
            self._out(one.out),
            heads=one.heads,
            head_dim=one.x.width // one.heads,
            weight=None if norm is None else self._weights.norms[norm.name],
            epsilon=0.0 if norm is None else norm.eps,
            weight_offset=0.0 if norm is None else norm.weight_offset,
            rope=None if one.rope is None else list(self._ropes).index(one.rope),
        )

    def _append_attend(self, one: steps.Attend) -> None:
        cache, layout = self.cache.layer(one.layer)
        self._program.attend(
            self._at(one.q),
            self._at(one.k),
            self._at(one.v),
            self._out(one.out),
            num_heads=one.attention.num_heads,
            cache=cache,
            layout=layout,
            scale=one.attention.scale,
            softcap=one.attention.softcap,
            window=one.attention.window,
        )

    def _out(self, matrix: Matrix) -> kernels.Place:
        return self._at(View(matrix=matrix, start=0, width=matrix.width))

    def _at(self, view: View) -> kernels.Place:
        lies = self._places[view.matrix]
        return kernels.Place(region=lies.region, offset=lies.offset, stride=lies.stride, column=view.start)
