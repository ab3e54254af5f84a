"""What a decoder-only language model *is*, as data: every size, name and constant a forward pass needs.

An architecture file turns a ``config.json`` into a :class:`ModelSpec`; the decoder walks it. Nothing here
holds weights, knows how they are stored, or computes anything.
"""

from dataclasses import dataclass, field
from typing import Literal

Activation = Literal["silu", "gelu", "gelu_tanh"]
RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearSpec:
    """One stored linear layer: ``y = x W^T + b`` with ``W`` of shape (out_features, in_features).

    ``name`` is the module path; the tensors are ``name.weight`` (or whatever quantized tensors a checkpoint
    layout stores under that path) and, when ``bias`` is set, ``name.bias``.
    """

    name: str
    in_features: int
    out_features: int
    bias: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearGroup:
    """Linear layers that read the same input; their outputs are concatenated in this order.

    The group is the unit of calibration (one Hessian) and of fusion. Checkpoints that store the layers
    already fused (Phi-3's ``qkv_proj``) give a group of one.
    """

    linears: tuple[LinearSpec, ...]

    @property
    def in_features(self) -> int:
        return self.linears[0].in_features

    @property
    def out_features(self) -> int:
        return sum(linear.out_features for linear in self.linears)


@dataclass(frozen=True, kw_only=True, slots=True)
class NormSpec:
    """RMS norm over the last ``size`` features: ``x / rms(x) * (weight_offset + weight)``; tensor ``name.weight``."""

    name: str
    size: int
    eps: float
    weight_offset: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeSpec:
    """Rotary position embedding of the first ``rotary_dim`` features of a head (rotate-half convention).

    ``kind`` selects the frequency rule of ``models/rope.py``; the fields below it are read by the rules that
    need them (names as in transformers' ``rope_scaling``).
    """

    rotary_dim: int
    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    original_max_positions: int = 0
    max_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionSpec:
    """Grouped-query attention. ``qkv`` yields queries, keys, values concatenated; ``output`` projects back.

    ``query_norm``/``key_norm`` act per head when their size is ``head_dim`` and over all heads at once when it
    is ``num_heads * head_dim`` (OLMo2). ``window`` 0 means full attention, else a query at position p sees
    keys p - window + 1 .. p. ``softcap`` 0 means none. ``rope`` is None in layers without positions.
    """

    qkv: LinearGroup
    output: LinearGroup
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: RopeSpec | None
    softcap: float = 0.0
    window: int = 0
    query_norm: NormSpec | None = None
    key_norm: NormSpec | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MlpSpec:
    """Gated feed-forward: ``down(activation(gate(x)) * up(x))``; ``gate_up`` yields gate and up concatenated."""

    gate_up: LinearGroup
    down: LinearGroup
    activation: Activation


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockSpec:
    """One decoder layer. A norm that the architecture lacks is None.

    ``x = x + residual_scale * post_attention_norm(attention(input_norm(x)))`` and then
    ``x = x + residual_scale * post_mlp_norm(mlp(pre_mlp_norm(x)))``. ``prefix`` is the module path of the layer.
    """

    index: int
    prefix: str
    attention: AttentionSpec
    mlp: MlpSpec
    input_norm: NormSpec | None = None
    post_attention_norm: NormSpec | None = None
    pre_mlp_norm: NormSpec | None = None
    post_mlp_norm: NormSpec | None = None
    residual_scale: float = 1.0

    @property
    def groups(self) -> tuple[LinearGroup, ...]:
        """The linear groups in the order in which a forward pass meets them."""
        return (self.attention.qkv, self.attention.output, self.mlp.gate_up, self.mlp.down)

    @property
    def linears(self) -> tuple[LinearSpec, ...]:
        return tuple(linear for group in self.groups for linear in group.linears)

    @property
    def norms(self) -> tuple[NormSpec, ...]:
        candidates = (
            self.input_norm,
            self.attention.query_norm,
            self.attention.key_norm,
            self.post_attention_norm,
            self.pre_mlp_norm,
            self.post_mlp_norm,
        )
        return tuple(norm for norm in candidates if norm is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingSpec:
    """Token embedding: row ``id`` of tensor ``name.weight`` (vocab_size, hidden_size), times ``scale``."""

    name: str
    vocab_size: int
    hidden_size: int
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A whole model. ``logits = softcap(logit_scale * head(final_norm(x)))``.

    With ``is_tied`` the head has no tensor of its own: it reads the embedding's (a file may hold the pair under
    either name). ``bos_token_id`` and ``eos_token_ids``, of which there may be several, are those that the config names
    and none else. ``max_positions`` is the context the model was made for.
    ``unread_keys`` are the config's keys that its architecture's reader neither used nor knows to be harmless:
    whoever loads the model tells the user, so that no option is dropped in silence.
    """

    architecture: str
    hidden_size: int
    embedding: EmbeddingSpec
    blocks: tuple[BlockSpec, ...]
    final_norm: NormSpec
    head: LinearGroup
    is_tied: bool
    max_positions: int
    logit_scale: float = 1.0
    logit_softcap: float = 0.0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = field(default=())
    unread_keys: tuple[str, ...] = ()

    @property
    def vocab_size(self) -> int:
        return self.embedding.vocab_size

    @property
    def linears(self) -> tuple[LinearSpec, ...]:
        """Every linear layer of every block, in forward order; not the head."""
        return tuple(linear for block in self.blocks for linear in block.linears)

    @property
    def norms(self) -> tuple[NormSpec, ...]:
        """Every norm of every block, and the final one."""
        return (*(norm for block in self.blocks for norm in block.norms), self.final_norm)
