"""A checkpoint's tensors by what they are in the model: linear layers, norms, embedding, head.

Opening checks from the headers alone that every tensor the model needs is there with the right shape. It knows
neither how a layer is stored (that is the layout's business) nor how a model runs.
"""

import re
from collections.abc import Iterable
from typing import Any, Self

import numpy as np

from flyweight.checkpoint import compressed_tensors, plain  # noqa: F401  (imported so that they register themselves)
from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.layouts import Activations, Expected, Layout, check_tensors, open_layout
from flyweight.checkpoint.safetensors_file import Array, StoredTensor
from flyweight.errors import CheckpointError
from flyweight.formats.base import Format, StoredWeight
from flyweight.formats.plain import stored_plain
from flyweight.models.spec import EmbeddingSpec, LinearSpec, ModelSpec, NormSpec

IGNORABLE = re.compile(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$")
"""Tensors that old checkpoints hold and that are computed from the config."""

EXPONENT_MASKS = {"float64": 0x7FF0000000000000, "float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}


class Weights:
    """The weights of ``spec`` in ``checkpoint``. Use :meth:`open`."""

    def __init__(self, *, checkpoint: Checkpoint, spec: ModelSpec, layout: Layout) -> None:
        self.checkpoint = checkpoint
        self.spec = spec
        self._layout = layout
        self._embedding = _embedding_tensor(checkpoint, spec)
        self._expected = self._collect()

    @classmethod
    def open(cls, checkpoint: Checkpoint, spec: ModelSpec) -> Self:
        """Choose the layout from ``quantization_config`` and check every tensor's presence, shape and dtype.

        Raises:
            CheckpointError: for the first tensor that is missing or wrong, and how many are missing in all.
            UnsupportedModelError: for a quantization that is not read.
        """
        weights = cls(checkpoint=checkpoint, spec=spec, layout=open_layout(checkpoint))
        check_tensors(checkpoint, weights._expected)
        if spec.is_tied:
            _check_tie(checkpoint, spec)
        return weights

    def linear(self, linear: LinearSpec) -> StoredWeight:
        """The layer's weight (out_features, in_features), as a fresh copy that goes when the caller drops it."""
        return self._layout.read(linear, mapped=False)

    def format(self, linear: LinearSpec) -> Format:
        """How the layer's weight is stored; nothing is read but the header."""
        return self._layout.format(linear)

    def activations(self, linear: LinearSpec) -> Activations:
        """``int8`` where the checkpoint asks for this layer's inputs to be quantized per token when it runs."""
        return self._layout.activations(linear)

    def bias(self, linear: LinearSpec) -> Array | None:
        """The layer's bias, float32 (out_features,), or None where the model has none."""
        return self.checkpoint.read(f"{linear.name}.bias").astype(np.float32) if linear.bias else None

    def norm(self, norm: NormSpec) -> Array:
        """The norm's weight, float32 (size,)."""
        return self.checkpoint.read(f"{norm.name}.weight").astype(np.float32)

    def embedding(self, embedding: EmbeddingSpec) -> Array:
        """The table (vocab_size, hidden_size) as a mapped view in the dtype it is stored in."""
        return self.checkpoint.tensor(self._embedding)

    def embedding_rows(self) -> StoredTensor:
        """The same table left in its file, for who reads a row at a time: touching a mapped row makes sixteen pages
        around it resident."""
        return self.checkpoint.lazy(self._embedding)

    def head(self, spec: ModelSpec) -> StoredWeight:
        """The output head's weight (vocab_size, hidden_size), mapped where it is plain; the embedding's when tied."""
        if spec.is_tied:
            return stored_plain(self.checkpoint.tensor(self._embedding))
        return self._layout.read(spec.head.linears[0], mapped=True)

    def head_rows(self, spec: ModelSpec, start: int, stop: int) -> StoredWeight:
        """Rows ``start`` to ``stop`` of the head's weight, as a fresh copy."""
        if spec.is_tied:
            return stored_plain(self.checkpoint.read_rows(self._embedding, start, stop))
        return self._layout.read_rows(spec.head.linears[0], start, stop)

    def head_format(self, spec: ModelSpec) -> Format:
        """How the head's weight is stored; nothing is read but the header."""
        if spec.is_tied:
            return stored_plain(self.checkpoint.tensor(self._embedding)).format
        return self._layout.format(spec.head.linears[0])

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the tensors that the model reads, sorted."""
        return tuple(sorted(self._expected))

    @property
    def unused(self) -> tuple[str, ...]:
        """Tensors that the model has no place for, sorted; without those known to be computed from the config."""
        known = set(self._expected)
        linears = [*self.spec.linears, *self.spec.head.linears]
        known.update(name for linear in linears for name in self._layout.optional(linear))
        if self.spec.is_tied:  # some files hold the tied pair under both names
            known.update(f"{name}.weight" for name in (self.spec.embedding.name, self.spec.head.linears[0].name))
        return tuple(name for name in self.checkpoint.names if name not in known and not IGNORABLE.search(name))

    def check_finite(self, names: Iterable[str] | None = None) -> None:
        """Read tensors through (those named, or all that the model uses) in small pieces.

        Raises:
            CheckpointError: naming the first tensor with a NaN or infinite value, and where in it that is.
        """
        for name in self.used if names is None else names:
            check_finite(self.checkpoint, name)

    def _collect(self) -> dict[str, Expected]:
        """Every tensor that the model reads."""
        spec = self.spec
        table = (spec.embedding.vocab_size, spec.embedding.hidden_size)
        expected = {self._embedding: Expected(shapes=(table,))}
        for linear in [*spec.linears, *spec.head.linears]:
            if not (spec.is_tied and linear in spec.head.linears):
                expected |= self._layout.expected(linear)
            if linear.bias:
                expected[f"{linear.name}.bias"] = Expected(shapes=((linear.out_features,),))
        for norm in [*(norm for block in spec.blocks for norm in block.norms), spec.final_norm]:
            expected[f"{norm.name}.weight"] = Expected(shapes=((norm.size,),))
        return expected


def check_finite(checkpoint: Checkpoint, name: str) -> None:
    """Read one tensor through in small pieces; integer tensors are finite by nature.

    Raises:
        CheckpointError: when it holds a NaN or infinite value, naming the first one's index.
    """
    dtype = checkpoint.dtype(name)
    if dtype.name not in EXPONENT_MASKS:
        return
    start = 0
    for chunk in checkpoint.chunks(name):
        found = _first_not_finite(chunk)
        if found is not None:
            index = [int(i) for i in np.unravel_index(start + found, checkpoint.shape(name))]
            raise CheckpointError(
                f"{checkpoint.folder}: tensor {name} holds {float(chunk[found])} at index {index}; the weights are "
                "damaged: download the checkpoint again, or repair the model before compressing it"
            )
        start += chunk.size


def _first_not_finite(values: Array) -> int | None:
    """Position of the first value whose exponent bits are all ones (infinity or NaN)."""
    bits = values.view(f"u{values.itemsize}")
    mask = bits.dtype.type(EXPONENT_MASKS[values.dtype.name])
    wrong: np.ndarray[Any, np.dtype[np.bool_]] = (bits & mask) == mask
    return int(wrong.argmax()) if wrong.any() else None


def _check_tie(checkpoint: Checkpoint, spec: ModelSpec) -> None:
    """A tied head may be stored a second time, but then as the same table: runtimes disagree on which one counts."""
    module = spec.head.linears[0].name
    own, head = f"{spec.embedding.name}.weight", f"{module}.weight"
    stored = [name for name in checkpoint.names if name.startswith(f"{module}.") and name != f"{module}.bias"]
    if own not in checkpoint or not stored:
        return
    if stored == [head] and (checkpoint.shape(head), checkpoint.dtype(head)) == (
        checkpoint.shape(own),
        checkpoint.dtype(own),
    ):
        pairs = zip(checkpoint.chunks(own), checkpoint.chunks(head), strict=True)
        if all(np.array_equal(a.view(np.uint8), b.view(np.uint8)) for a, b in pairs):
            return
    raise CheckpointError(
        f"{checkpoint.folder}: config.json says tie_word_embeddings, but {stored[0]} is stored and differs from {own}; "
        "set tie_word_embeddings to false in config.json to use it, or remove the tensor"
    )


def _embedding_tensor(checkpoint: Checkpoint, spec: ModelSpec) -> str:
    """Which tensor holds the table; a tied pair may be stored under either name."""
    own, head = f"{spec.embedding.name}.weight", f"{spec.head.linears[0].name}.weight"
    if spec.is_tied and own not in checkpoint and head in checkpoint:
        return head
    return own
