"""Gemma 3 (text): Gemma 2's block with norms on query and key heads, and a position embedding per layer type.

The wrapper that also sees images (``gemma3``) is read for its text model only; images are not supported.
"""

from flyweight.models.architecture import ARCHITECTURES
from flyweight.models.common import (
    LayerType,
    SizeDefaults,
    Sizes,
    assemble,
    attention,
    gated_mlp,
    layer_windows,
    read_activation,
    read_layer_types,
    read_sizes,
    read_softcap,
    read_window,
    sandwich_norm_block,
)
from flyweight.models.config import ConfigReader
from flyweight.models.rope_parameters import rope_of_section
from flyweight.models.spec import BlockSpec, ModelSpec, RopeSpec

DEFAULTS = SizeDefaults(
    vocab_size=262_208,
    hidden_size=2304,
    intermediate_size=9216,
    num_layers=26,
    num_heads=8,
    num_kv_heads=4,
    head_dim=256,
    max_positions=131_072,
)
THETAS: dict[LayerType, float] = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}


@ARCHITECTURES.add("gemma3_text")
def read_gemma3_text(config: ConfigReader) -> ModelSpec:
    sizes = read_sizes(config, DEFAULTS, norm_offset=1.0)
    blocks = _read_blocks(config, sizes)
    logit_softcap = read_softcap(config, "final_logit_softcapping", 0.0)
    return assemble(
        config,
        sizes,
        blocks,
        architecture="gemma3_text",
        is_tied=config.boolean("tie_word_embeddings", True),
        embedding_scale=sizes.hidden_size**0.5,
        logit_softcap=logit_softcap,
    )


@ARCHITECTURES.add("gemma3")
def read_gemma3(config: ConfigReader) -> ModelSpec:
    """The text model inside the wrapper; its modules lie under ``language_model``."""
    text = config.section("text_config", required=True)
    text.expect("model_type", "gemma3_text", reason="the wrapper holds another text model")
    text.expect("is_encoder_decoder", False, reason="only decoders are")
    text.expect("final_logit_softcapping", reason="the wrapper's head has no soft cap")
    sizes = read_sizes(text, DEFAULTS, prefix="language_model.model", norm_offset=1.0)
    blocks = _read_blocks(text, sizes)
    is_tied = text.boolean("tie_word_embeddings", config.boolean("tie_word_embeddings", True))
    config.ignore(["vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index"])
    return assemble(
        config,
        sizes,
        blocks,
        architecture="gemma3",
        is_tied=is_tied,
        head_name="language_model.lm_head",
        embedding_scale=sizes.hidden_size**0.5,
        default_bos=text.token_ids("bos_token_id"),
        default_eos=text.token_ids("eos_token_id"),
    )


def _read_blocks(config: ConfigReader, sizes: Sizes) -> list[BlockSpec]:
    pattern = config.integer("sliding_window_pattern", config.integer("_sliding_window_pattern", 6))
    types = read_layer_types(config, sizes, slides=lambda index: (index + 1) % pattern != 0)
    windows = layer_windows(config, types, read_window(config, absent=4096))
    ropes = _read_ropes(config, sizes)
    config.expect("use_bidirectional_attention", False, reason="the decoder is causal")
    config.expect("attn_logit_softcapping", reason="Gemma 3 normalises queries and keys instead")
    config.ignore(["hidden_act"])
    activation = read_activation(config, "hidden_activation", "gelu_pytorch_tanh")
    bias = config.boolean("attention_bias", False)
    scale = config.number("query_pre_attn_scalar", 256) ** -0.5
    return [
        sandwich_norm_block(
            sizes,
            index,
            attention=attention(
                sizes,
                index,
                rope=ropes[layer_type],
                scale=scale,
                qkv_bias=bias,
                output_bias=bias,
                window=windows[index],
                query_norm=sizes.norm(f"{sizes.layer(index)}.self_attn.q_norm", sizes.head_dim),
                key_norm=sizes.norm(f"{sizes.layer(index)}.self_attn.k_norm", sizes.head_dim),
            ),
            mlp=gated_mlp(sizes, index, activation),
        )
        for index, layer_type in enumerate(types)
    ]


def _read_ropes(config: ConfigReader, sizes: Sizes) -> dict[LayerType, RopeSpec]:
    """One embedding per layer type: nested ``rope_parameters``, or the old ``rope_scaling`` (full layers only)."""
    thetas = {
        "full_attention": config.number("rope_theta", THETAS["full_attention"], above=1.0),
        "sliding_attention": config.number("rope_local_base_freq", THETAS["sliding_attention"], above=1.0),
    }
    parameters = config.section("rope_parameters")
    sections = {name: parameters.section(name) for name in THETAS}
    if not parameters.nested() and parameters.unread():
        raise config.contradiction(
            "rope_parameters has no full_attention and sliding_attention parts, as Gemma 3 needs"
        )
    if config.has("rope_scaling"):
        sections["full_attention"] = config.section("rope_scaling")
    ropes: dict[LayerType, RopeSpec] = {}
    for name, section in sections.items():
        section.expect("partial_rotary_factor", 1, 1.0, reason="this architecture rotates whole heads")
        ropes[name] = rope_of_section(
            section,
            config,
            theta=section.number("rope_theta", thetas[name], above=1.0),
            rotary_dim=sizes.head_dim,
            max_positions=sizes.max_positions,
        )
    return ropes
