"""The torch backend: the decoder's operations on tensors of any device, with gradients where there is no cache.

It is the oracle of the native backend, and the way onto a GPU. It needs the torch extra and is the only module
that imports torch at its top; it does not know how weights lie on disk, nor who plans batches.
"""

from typing import Any, Literal

import numpy as np

from flyweight.checkpoint.weights import Weights
from flyweight.errors import UsageError
from flyweight.models.rope import rope_table
from flyweight.models.spec import Activation, AttentionSpec, EmbeddingSpec, LinearGroup, ModelSpec, NormSpec, RopeSpec
from flyweight.runtime.batch import Batch, IntArray
from flyweight.runtime.kv_cache import BLOCK_SIZE

try:
    import torch
    from torch.nn import functional
except ImportError as error:
    raise UsageError("the torch backend needs PyTorch; install it with: pip install 'flyweight[torch]'") from error

Tensor = torch.Tensor
TorchDtype = Literal["float32", "bfloat16"]
DTYPES: dict[TorchDtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TorchCache:
    """Keys and values of a whole model in ``num_blocks`` cache blocks of ``block_size`` tokens.

    ``keys[i]`` and ``values[i]`` belong to decoder block i and have shape
    (num_blocks * block_size, num_kv_heads, head_dim): a batch's slots index them directly. Which sequence owns
    which block is planned elsewhere (``runtime.sequences``).
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        num_blocks: int,
        block_size: int = BLOCK_SIZE,
        device: str = "cpu",
        dtype: TorchDtype = "float32",
    ) -> None:
        self.block_size = block_size
        rows = num_blocks * block_size
        shapes = [(rows, block.attention.num_kv_heads, block.attention.head_dim) for block in spec.blocks]
        self.keys = [torch.zeros(shape, dtype=DTYPES[dtype], device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=DTYPES[dtype], device=device) for shape in shapes]

    def store(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Write k, v (tokens, num_kv_heads, head_dim) to ``slots`` (tokens,).

        Raises:
            ValueError: when k carries a gradient, which the cache would cut off.
        """
        if k.requires_grad:
            raise ValueError("a cache cuts gradients off; train without one, or run under torch.no_grad()")
        self.keys[layer][slots] = k
        self.values[layer][slots] = v

    def context(self, layer: int, block_table: IntArray, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values (length, num_kv_heads, head_dim) of the sequence whose blocks are listed."""
        positions = np.arange(length)
        rows = block_table[positions // self.block_size].astype(np.int64) * self.block_size
        slots = torch.from_numpy(rows + positions % self.block_size).to(self.keys[layer].device)
        return self.keys[layer][slots], self.values[layer][slots]


class TorchOps:
    """``Ops`` in torch. Weights are decoded to ``dtype`` once; norms, rotations and softmax compute in float32.

    Args:
        weights: where linear layers (of any format), norms, biases and the embedding come from.
        dtype: of weights and activations. Logits are always float32.
        cache: needed to run a sequence in more than one step. Without it every sequence must lie in its batch
            as a whole, nothing is stored, and gradients flow.

    ``parameters`` maps tensor names (``model.layers.0.mlp.up_proj.weight``) to the tensors in use; a tied head is
    the embedding's tensor. They are leaves without gradient until someone calls ``requires_grad_``.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        *,
        device: str = "cpu",
        dtype: TorchDtype = "float32",
        cache: TorchCache | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = DTYPES[dtype]
        self.cache = cache
        self.parameters: dict[str, Tensor] = {}
        self._batch: Batch | None = None
        self._tables: dict[RopeSpec, tuple[Tensor, Tensor]] = {}
        self._load(spec, weights)

    def _load(self, spec: ModelSpec, weights: Weights) -> None:
        embedding = f"{spec.embedding.name}.weight"
        self.parameters[embedding] = self._tensor(weights.embedding(spec.embedding), self.dtype)
        for linear in spec.linears:
            self.parameters[f"{linear.name}.weight"] = self._tensor(weights.linear(linear).decode(), self.dtype)
            bias = weights.bias(linear)
            if bias is not None:
                self.parameters[f"{linear.name}.bias"] = self._tensor(bias, self.dtype)
        for norm in (*(norm for block in spec.blocks for norm in block.norms), spec.final_norm):
            self.parameters[f"{norm.name}.weight"] = self._tensor(weights.norm(norm), torch.float32)
        head = f"{spec.head.linears[0].name}.weight"
        if spec.is_tied:
            self.parameters[head] = self.parameters[embedding]
        else:
            self.parameters[head] = self._tensor(weights.head(spec).decode(), self.dtype)

    def embed(self, embedding: EmbeddingSpec, token_ids: IntArray) -> Tensor:
        rows = functional.embedding(self._integers(token_ids), self.parameters[f"{embedding.name}.weight"])
        return rows if embedding.scale == 1.0 else rows * embedding.scale

    def linear(self, group: LinearGroup, x: Tensor) -> Tensor:
        outputs = [
            functional.linear(x, self.parameters[f"{linear.name}.weight"], self.parameters.get(f"{linear.name}.bias"))
            for linear in group.linears
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    def norm(self, norm: NormSpec, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + norm.eps)
        return (normed * (norm.weight_offset + self.parameters[f"{norm.name}.weight"])).to(x.dtype)

    def rope(self, rope: RopeSpec, x: Tensor, batch: Batch) -> Tensor:
        cos, sin = self._rope_table(rope, batch)
        half = rope.rotary_dim // 2
        first, second = x[..., :half].float(), x[..., half : 2 * half].float()
        rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
        return torch.cat((rotated, x[..., 2 * half :]), dim=-1)

    def attend(self, attention: AttentionSpec, layer: int, q: Tensor, k: Tensor, v: Tensor, batch: Batch) -> Tensor:
        if self.cache is not None:
            self.cache.store(layer, self._integers(batch.slots), k, v)
        elif not np.array_equal(np.diff(batch.query_starts), batch.context_lengths):
            raise ValueError(
                "a sequence continues one of an earlier step; that needs TorchOps(..., cache=TorchCache(...))"
            )
        outputs = []
        for sequence, length in enumerate(batch.context_lengths):
            rows = slice(int(batch.query_starts[sequence]), int(batch.query_starts[sequence + 1]))
            if self.cache is not None:
                keys, values = self.cache.context(layer, batch.block_tables[sequence], int(length))
            else:
                keys, values = k[rows], v[rows]
            outputs.append(_attend(attention, q[rows], keys, values, self._integers(batch.positions[rows])))
        return torch.cat(outputs)

    def act_mul(self, activation: Activation, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        match activation:
            case "silu":
                return functional.silu(gate) * up
            case "gelu":
                return functional.gelu(gate) * up
            case "gelu_tanh":
                return functional.gelu(gate, approximate="tanh") * up

    def add(self, x: Tensor, y: Tensor, scale: float) -> Tensor:
        return x + y if scale == 1.0 else x + scale * y

    def cap(self, x: Tensor, scale: float, softcap: float) -> Tensor:
        logits = x.float() * scale
        return softcap * torch.tanh(logits / softcap) if softcap else logits

    def _tensor(self, array: np.ndarray[Any, np.dtype[Any]], dtype: torch.dtype) -> Tensor:
        # A copy: torch must not write through to a mapped file.
        return torch.from_numpy(np.array(array, dtype=np.float32)).to(device=self.device, dtype=dtype)

    def _integers(self, array: IntArray) -> Tensor:
        return torch.from_numpy(np.array(array, dtype=np.int64)).to(self.device)

    def _rope_table(self, rope: RopeSpec, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cosines and sines (tokens, 1, rotary_dim / 2) of the batch, made once for all its layers."""
        if self._batch is not batch:
            self._batch, self._tables = batch, {}
        if rope not in self._tables:
            lengths = np.repeat(batch.context_lengths, np.diff(batch.query_starts))
            cos, sin = rope_table(rope, batch.positions, lengths)
            self._tables[rope] = (
                torch.from_numpy(cos).to(self.device)[:, None, :],
                torch.from_numpy(sin).to(self.device)[:, None, :],
            )
        return self._tables[rope]


def _attend(attention: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Tensor:
    """One sequence: q (n, heads, head_dim), k and v (length, kv_heads, head_dim) -> (n, heads * head_dim)."""
    n, length = q.shape[0], k.shape[0]
    grouped = q.reshape(n, attention.num_kv_heads, -1, attention.head_dim)
    scores = torch.einsum("nkgd,lkd->kgnl", grouped, k).float() * attention.scale
    if attention.softcap:
        scores = attention.softcap * torch.tanh(scores / attention.softcap)
    distance = positions[:, None] - torch.arange(length, device=q.device)[None, :]
    hidden = distance < 0
    if attention.window:
        hidden = hidden | (distance >= attention.window)
    shares = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1).to(v.dtype)
    return torch.einsum("kgnl,lkd->nkgd", shares, v).reshape(n, -1)
