"""The seam between the one decoder and everything that can compute it.

The decoder calls these operations and nothing else; arrays are whatever the implementation uses (numpy,
torch), as long as they slice and reshape. Implementations own weights and caches; the decoder owns neither.
"""

from typing import Any, Protocol

from flyweight.models.spec import Activation, AttentionSpec, EmbeddingSpec, LinearGroup, NormSpec, RopeSpec
from flyweight.runtime.batch import Batch, IntArray


class Ops(Protocol):
    """What a backend provides. Activations are (tokens, features), float32 unless the backend says otherwise."""

    def embed(self, embedding: EmbeddingSpec, token_ids: IntArray) -> Any:
        """Rows of the embedding times its scale: (tokens, hidden_size)."""
        ...

    def linear(self, group: LinearGroup, x: Any) -> Any:
        """All linears of the group on the same input, biases added, outputs joined: (tokens, group.out_features)."""
        ...

    def norm(self, norm: NormSpec, x: Any) -> Any:
        """RMS norm over the last axis of ``x``, whose length is ``norm.size``; any leading axes."""
        ...

    def rope(self, rope: RopeSpec, x: Any, batch: Batch) -> Any:
        """Rotate (tokens, heads, head_dim) by the batch's positions."""
        ...

    def attend(self, attention: AttentionSpec, layer: int, q: Any, k: Any, v: Any, batch: Batch) -> Any:
        """Store k, v (tokens, kv_heads, head_dim) in layer ``layer`` of the cache, then attend causally:
        q (tokens, heads, head_dim) -> (tokens, heads * head_dim)."""
        ...

    def act_mul(self, activation: Activation, gate_up: Any) -> Any:
        """``activation(gate) * up`` of (tokens, 2n) holding gate and up side by side: (tokens, n)."""
        ...

    def add(self, x: Any, y: Any, scale: float) -> Any:
        """``x + scale * y``."""
        ...

    def cap(self, x: Any, scale: float, softcap: float) -> Any:
        """``scale * x``, then ``softcap * tanh(x / softcap)`` unless softcap is 0: the finishing of logits."""
        ...
