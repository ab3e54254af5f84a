"""Gemma 2: sandwich norms whose weights are offsets from 1, soft caps, every other layer sliding."""

from flyweight.models.architecture import ARCHITECTURES
from flyweight.models.common import (
    SizeDefaults,
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
from flyweight.models.rope_parameters import read_rope
from flyweight.models.spec import ModelSpec

DEFAULTS = SizeDefaults(num_heads=8, num_kv_heads=4, head_dim=256, max_positions=8192)


@ARCHITECTURES.add("gemma2")
def read_gemma2(config: ConfigReader) -> ModelSpec:
    """Embeddings are multiplied by sqrt(hidden_size); scores by 1 / sqrt(query_pre_attn_scalar)."""
    sizes = read_sizes(config, DEFAULTS, norm_offset=1.0)
    rope = read_rope(config, head_dim=sizes.head_dim, max_positions=sizes.max_positions)
    config.expect("use_bidirectional_attention", False, reason="the decoder is causal")
    config.ignore(["hidden_act"])  # written beside hidden_activation by early releases, and not what they ran
    activation = read_activation(config, "hidden_activation", "gelu_pytorch_tanh")
    bias = config.boolean("attention_bias", False)
    scale = config.number("query_pre_attn_scalar", 256) ** -0.5
    attention_softcap = read_softcap(config, "attn_logit_softcapping", 50.0)
    types = read_layer_types(config, sizes, slides=lambda index: index % 2 == 0)
    windows = layer_windows(config, types, read_window(config, absent=4096))
    blocks = [
        sandwich_norm_block(
            sizes,
            index,
            attention=attention(
                sizes,
                index,
                rope=rope,
                scale=scale,
                qkv_bias=bias,
                output_bias=bias,
                window=windows[index],
                softcap=attention_softcap,
            ),
            mlp=gated_mlp(sizes, index, activation),
        )
        for index in range(sizes.num_layers)
    ]
    logit_softcap = read_softcap(config, "final_logit_softcapping", 30.0)
    return assemble(
        config,
        sizes,
        blocks,
        architecture="gemma2",
        is_tied=config.boolean("tie_word_embeddings", True),
        embedding_scale=sizes.hidden_size**0.5,
        logit_softcap=logit_softcap,
    )
