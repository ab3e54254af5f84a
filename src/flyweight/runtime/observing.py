"""Ops that let someone look at what enters each linear group, and otherwise do what the inner Ops does."""

from collections.abc import Callable
from typing import Any

from flyweight.models.spec import Activation, AttentionSpec, EmbeddingSpec, LinearGroup, NormSpec, RopeSpec
from flyweight.runtime.batch import Batch, IntArray
from flyweight.runtime.ops import Ops


class Observing:
    """Calls ``observe(group, x)`` with the input (tokens, in_features) of every linear group before running it."""

    def __init__(self, inner: Ops, observe: Callable[[LinearGroup, Any], None]) -> None:
        self._inner = inner
        self._observe = observe

    def embed(self, embedding: EmbeddingSpec, token_ids: IntArray) -> Any:
        return self._inner.embed(embedding, token_ids)

    def linear(self, group: LinearGroup, x: Any) -> Any:
        self._observe(group, x)
        return self._inner.linear(group, x)

    def norm(self, norm: NormSpec, x: Any) -> Any:
        return self._inner.norm(norm, x)

    def rope(self, rope: RopeSpec, x: Any, batch: Batch) -> Any:
        return self._inner.rope(rope, x, batch)

    def attend(self, attention: AttentionSpec, layer: int, q: Any, k: Any, v: Any, batch: Batch) -> Any:
        return self._inner.attend(attention, layer, q, k, v, batch)

    def act_mul(self, activation: Activation, gate_up: Any) -> Any:
        return self._inner.act_mul(activation, gate_up)

    def add(self, x: Any, y: Any, scale: float) -> Any:
        return self._inner.add(x, y, scale)

    def cap(self, x: Any, scale: float, softcap: float) -> Any:
        return self._inner.cap(x, scale, softcap)
