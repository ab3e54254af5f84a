"""The pieces that architectures share: sizes, layer types, and the builders of attention, MLP and whole models.

They build specs out of a config and the usual tensor names; what is special about a family stays in its file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from flyweight.models.config import ConfigReader
from flyweight.models.spec import (
    Activation,
    AttentionSpec,
    BlockSpec,
    EmbeddingSpec,
    LinearGroup,
    LinearSpec,
    MlpSpec,
    ModelSpec,
    NormSpec,
    RopeSpec,
)

LayerType = Literal["full_attention", "sliding_attention"]

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The numbers nearly every decoder has, and where its modules lie (``prefix``, such as ``model``)."""

    prefix: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float
    norm_offset: float

    def layer(self, index: int) -> str:
        return f"{self.prefix}.layers.{index}"

    def norm(self, name: str, size: int | None = None) -> NormSpec:
        """An RMS norm of this model, over the hidden size unless told otherwise."""
        return NormSpec(
            name=name,
            size=self.hidden_size if size is None else size,
            eps=self.norm_eps,
            weight_offset=self.norm_offset,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeDefaults:
    """What transformers assumes for a family where a config leaves a number out; None means it must be there."""

    vocab_size: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_layers: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None  # None: as many as heads
    head_dim: int | None = None  # None: hidden_size / num_heads
    max_positions: int | None = None
    norm_eps: float = 1e-6


def read_sizes(
    config: ConfigReader,
    defaults: SizeDefaults | None = None,
    *,
    prefix: str = "model",
    norm_offset: float = 0.0,
) -> Sizes:
    """Read the sizes and check that they fit each other.

    Raises:
        CheckpointError: for missing, impossible or contradictory sizes.
    """
    known = defaults if defaults is not None else SizeDefaults()
    hidden_size = _size(config, "hidden_size", known.hidden_size)
    num_heads = _size(config, "num_attention_heads", known.num_heads)
    num_kv_heads = config.integer(
        "num_key_value_heads", known.num_kv_heads if known.num_kv_heads is not None else num_heads
    )
    if num_heads % num_kv_heads:
        raise config.contradiction(
            f"num_attention_heads={num_heads} is not a multiple of num_key_value_heads={num_kv_heads}"
        )
    if config.has("head_dim") or known.head_dim is not None:
        head_dim = _size(config, "head_dim", known.head_dim)
    else:
        config.ignore(["head_dim"])
        if hidden_size % num_heads:
            raise config.contradiction(
                f"hidden_size={hidden_size} is not a multiple of num_attention_heads={num_heads} and head_dim is absent"
            )
        head_dim = hidden_size // num_heads
    num_layers = _size(config, "num_hidden_layers", known.num_layers)
    if num_layers > 10_000:
        raise config.contradiction(f"num_hidden_layers={num_layers}; no model has more than 10000")
    return Sizes(
        prefix=prefix,
        vocab_size=_size(config, "vocab_size", known.vocab_size),
        hidden_size=hidden_size,
        intermediate_size=_size(config, "intermediate_size", known.intermediate_size),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_positions=_size(config, "max_position_embeddings", known.max_positions),
        norm_eps=config.number("rms_norm_eps", known.norm_eps, above=-1e-30, at_most=1.0),
        norm_offset=norm_offset,
    )


def read_layer_types(config: ConfigReader, sizes: Sizes, slides: Callable[[int], bool]) -> tuple[LayerType, ...]:
    """``layer_types`` of the config, one per layer; where it is absent, ``slides`` of a layer's index decides.

    Raises:
        UnsupportedModelError: for a type other than full and sliding attention (a hybrid model).
        CheckpointError: when the list's length is not the number of layers.
    """
    names = config.texts("layer_types")
    if not names:
        return tuple("sliding_attention" if slides(index) else "full_attention" for index in range(sizes.num_layers))
    types: list[LayerType] = []
    for name in names:
        if name not in ("full_attention", "sliding_attention"):
            raise config.refuse(
                "layer_types",
                f"layers of type {name!r} are not supported (hybrid models are not); "
                "supported: full_attention, sliding_attention",
            )
        types.append("sliding_attention" if name == "sliding_attention" else "full_attention")
    if len(types) != sizes.num_layers:
        raise config.contradiction(f"layer_types has {len(types)} entries for num_hidden_layers={sizes.num_layers}")
    return tuple(types)


def layer_windows(config: ConfigReader, types: Sequence[LayerType], window: int | None) -> tuple[int, ...]:
    """The window of each layer: ``window`` where its type is sliding, 0 elsewhere.

    Raises:
        CheckpointError: when a layer slides and there is no window.
    """
    if window is None and "sliding_attention" in types:
        raise config.contradiction("a layer has sliding_attention, but sliding_window is not set or not in use")
    return tuple((window or 0) if name == "sliding_attention" else 0 for name in types)


def read_window(config: ConfigReader, absent: int | None = None) -> int | None:
    """``sliding_window``: tokens that a query sees, its own included. Null means no window, absence ``absent``."""
    config.ignore(["sliding_window"])
    if config.has("sliding_window"):
        return config.integer("sliding_window")
    return None if config.mentions("sliding_window") else absent


def read_softcap(config: ConfigReader, key: str, absent: float) -> float:
    """A soft cap; 0 is none. Null means none, absence ``absent``."""
    if config.has(key):
        return config.number(key)
    return 0.0 if config.mentions(key) else absent


def read_activation(config: ConfigReader, key: str = "hidden_act", default: str = "silu") -> Activation:
    """The activation of the gated MLP.

    Raises:
        UnsupportedModelError: for one that no kernel computes.
    """
    name = config.text(key, default)
    if name not in ACTIVATIONS:
        raise config.refuse(key, f"this activation is not supported; supported: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def attention(
    sizes: Sizes,
    index: int,
    *,
    rope: RopeSpec | None,
    scale: float | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    window: int = 0,
    softcap: float = 0.0,
    query_norm: NormSpec | None = None,
    key_norm: NormSpec | None = None,
) -> AttentionSpec:
    """Attention with separate ``q_proj, k_proj, v_proj, o_proj``; ``scale`` is 1 / sqrt(head_dim) unless given."""
    path = f"{sizes.layer(index)}.self_attn"
    query_size, key_size = sizes.num_heads * sizes.head_dim, sizes.num_kv_heads * sizes.head_dim
    qkv = LinearGroup(
        linears=(
            linear(f"{path}.q_proj", sizes.hidden_size, query_size, bias=qkv_bias),
            linear(f"{path}.k_proj", sizes.hidden_size, key_size, bias=qkv_bias),
            linear(f"{path}.v_proj", sizes.hidden_size, key_size, bias=qkv_bias),
        )
    )
    return AttentionSpec(
        qkv=qkv,
        output=group_of_one(f"{path}.o_proj", query_size, sizes.hidden_size, bias=output_bias),
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        scale=sizes.head_dim**-0.5 if scale is None else scale,
        rope=rope,
        softcap=softcap,
        window=window,
        query_norm=query_norm,
        key_norm=key_norm,
    )


def gated_mlp(sizes: Sizes, index: int, activation: Activation, *, bias: bool = False) -> MlpSpec:
    """MLP with separate ``gate_proj, up_proj, down_proj``."""
    path = f"{sizes.layer(index)}.mlp"
    gate_up = LinearGroup(
        linears=(
            linear(f"{path}.gate_proj", sizes.hidden_size, sizes.intermediate_size, bias=bias),
            linear(f"{path}.up_proj", sizes.hidden_size, sizes.intermediate_size, bias=bias),
        )
    )
    down = group_of_one(f"{path}.down_proj", sizes.intermediate_size, sizes.hidden_size, bias=bias)
    return MlpSpec(gate_up=gate_up, down=down, activation=activation)


def pre_norm_block(
    sizes: Sizes, index: int, *, attention: AttentionSpec, mlp: MlpSpec, residual_scale: float = 1.0
) -> BlockSpec:
    """Llama's block: a norm before attention and one before the MLP."""
    path = sizes.layer(index)
    return BlockSpec(
        index=index,
        prefix=path,
        attention=attention,
        mlp=mlp,
        input_norm=sizes.norm(f"{path}.input_layernorm"),
        pre_mlp_norm=sizes.norm(f"{path}.post_attention_layernorm"),
        residual_scale=residual_scale,
    )


def sandwich_norm_block(sizes: Sizes, index: int, *, attention: AttentionSpec, mlp: MlpSpec) -> BlockSpec:
    """Gemma's block: norms before and after both attention and MLP."""
    path = sizes.layer(index)
    return BlockSpec(
        index=index,
        prefix=path,
        attention=attention,
        mlp=mlp,
        input_norm=sizes.norm(f"{path}.input_layernorm"),
        post_attention_norm=sizes.norm(f"{path}.post_attention_layernorm"),
        pre_mlp_norm=sizes.norm(f"{path}.pre_feedforward_layernorm"),
        post_mlp_norm=sizes.norm(f"{path}.post_feedforward_layernorm"),
    )


def linear(name: str, in_features: int, out_features: int, *, bias: bool = False) -> LinearSpec:
    return LinearSpec(name=name, in_features=in_features, out_features=out_features, bias=bias)


def group_of_one(name: str, in_features: int, out_features: int, *, bias: bool = False) -> LinearGroup:
    return LinearGroup(linears=(linear(name, in_features, out_features, bias=bias),))


def assemble(
    config: ConfigReader,
    sizes: Sizes,
    blocks: Sequence[BlockSpec],
    *,
    architecture: str,
    is_tied: bool,
    head_name: str = "lm_head",
    embedding_scale: float = 1.0,
    logit_scale: float = 1.0,
    logit_softcap: float = 0.0,
    default_bos: tuple[int, ...] = (),
    default_eos: tuple[int, ...] = (),
) -> ModelSpec:
    """The whole model: embedding, blocks, final norm, head and special tokens.

    Call it last: it is here that config keys which nobody read are collected into ``unread_keys``. ``default_bos`` and
    ``default_eos`` are for a config that names them in another place.
    """
    bos = config.token_ids("bos_token_id", default_bos)
    eos = config.token_ids("eos_token_id", default_eos)
    return ModelSpec(
        architecture=architecture,
        hidden_size=sizes.hidden_size,
        embedding=EmbeddingSpec(
            name=f"{sizes.prefix}.embed_tokens",
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            scale=embedding_scale,
        ),
        blocks=tuple(blocks),
        final_norm=sizes.norm(f"{sizes.prefix}.norm"),
        head=group_of_one(head_name, sizes.hidden_size, sizes.vocab_size),
        is_tied=is_tied,
        max_positions=_context(sizes.max_positions, blocks),
        logit_scale=logit_scale,
        logit_softcap=logit_softcap,
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=eos,
        unread_keys=config.unread(),
    )


def _context(max_positions: int, blocks: Sequence[BlockSpec]) -> int:
    """The context the model was made for: with linear or dynamic rope throughout, the config names the unstretched one
    (as vLLM reads it too); with the other kinds, and with Gemma 3's mixture, it names the stretched one."""
    ropes = [block.attention.rope for block in blocks if block.attention.rope is not None]
    stretched = bool(ropes) and all(rope.kind in ("linear", "dynamic") for rope in ropes)
    return round(max_positions * ropes[0].factor) if stretched else max_positions


def _size(config: ConfigReader, key: str, default: int | None) -> int:
    return config.integer(key) if default is None else config.integer(key, default)
