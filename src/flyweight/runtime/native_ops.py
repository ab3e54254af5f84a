"""The native backend: the decoder's operations on numpy arrays, computed by flyweight.kernels.

Activations are float32 arrays; weights are handles that the kernels packed for this CPU. It knows neither how
weights lie on disk nor who plans batches.
"""

import numpy as np

from flyweight import kernels
from flyweight.checkpoint.safetensors_file import StoredTensor
from flyweight.errors import UsageError
from flyweight.formats.base import Array
from flyweight.models.rope import rope_table
from flyweight.models.spec import Activation, AttentionSpec, EmbeddingSpec, LinearGroup, NormSpec, RopeSpec
from flyweight.runtime.batch import Batch, IntArray
from flyweight.runtime.kv_cache import KVCache
from flyweight.runtime.prepared import PreparedBlock, PreparedWeights

__all__ = ["NativeOps", "PreparedBlock", "PreparedWeights"]


class NativeOps:
    """``Ops`` over prepared weights and one cache, for a whole model or for one block of it.

    Cheap to make: weights are shared, so a caller may make one for each cache.
    """

    def __init__(self, weights: PreparedWeights | PreparedBlock, cache: KVCache) -> None:
        self.cache = cache
        self._weights = weights
        self._pager = weights.pager if isinstance(weights, PreparedWeights) else None
        self._batch: Batch | None = None
        self._tables: dict[RopeSpec, tuple[Array, Array]] = {}

    def embed(self, embedding: EmbeddingSpec, token_ids: IntArray) -> Array:
        if not isinstance(self._weights, PreparedWeights):
            raise UsageError("one block alone has no embedding; prepare the whole model")
        table = self._weights.embedding
        stored = table.rows(token_ids.tolist()) if isinstance(table, StoredTensor) else table[token_ids]
        rows = stored.astype(np.float32)
        return rows if embedding.scale == 1.0 else rows * np.float32(embedding.scale)

    def linear(self, group: LinearGroup, x: Array) -> Array:
        name = group.linears[0].name
        prepared, pager = self._weights.groups[name], self._pager
        if pager is not None:
            pager.use(name, 0)
        if len(prepared.handles) == 1:
            return kernels.linear(x, prepared.handles[0], prepared.biases[0])
        out = np.empty((x.shape[0], group.out_features), np.float32)
        start = 0
        for index, (handle, bias) in enumerate(zip(prepared.handles, prepared.biases, strict=True)):
            if pager is not None and index > 0:
                pager.use(name, index)
            kernels.linear(x, handle, bias, out[:, start : start + handle.out_features])
            start += handle.out_features
        return out

    def norm(self, norm: NormSpec, x: Array) -> Array:
        return kernels.rms_norm(np.ascontiguousarray(x), self._weights.norms[norm.name], norm.eps, norm.weight_offset)

    def rope(self, rope: RopeSpec, x: Array, batch: Batch) -> Array:
        cos, sin = self._rope_table(rope, batch)
        return kernels.rope(np.ascontiguousarray(x), cos, sin)

    def attend(self, attention: AttentionSpec, layer: int, q: Array, k: Array, v: Array, batch: Batch) -> Array:
        cache, layout = self.cache.layer(layer)
        kernels.cache_write(np.ascontiguousarray(k), np.ascontiguousarray(v), cache, layout, batch.slots)
        out = kernels.attend(
            np.ascontiguousarray(q),
            cache,
            layout,
            batch.block_tables,
            batch.query_starts,
            batch.context_lengths,
            scale=attention.scale,
            softcap=attention.softcap,
            window=attention.window,
        )
        return out.reshape(len(q), attention.num_heads * attention.head_dim)

    def act_mul(self, activation: Activation, gate_up: Array) -> Array:
        return kernels.act_mul(gate_up, activation)

    def add(self, x: Array, y: Array, scale: float) -> Array:
        return kernels.add(x, y, scale)

    def cap(self, x: Array, scale: float, softcap: float) -> Array:
        return x if scale == 1.0 and not softcap else kernels.cap(x, scale, softcap, out=x)

    def _rope_table(self, rope: RopeSpec, batch: Batch) -> tuple[Array, Array]:
        """Cosines and sines (tokens, rotary_dim / 2) of the batch, made once for all its layers."""
        if self._batch is not batch:
            self._batch, self._tables = batch, {}
        if rope not in self._tables:
            lengths = np.repeat(batch.context_lengths, np.diff(batch.query_starts))
            self._tables[rope] = rope_table(rope, batch.positions, lengths)
        return self._tables[rope]
