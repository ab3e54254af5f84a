"""Qwen3 (dense): a norm on every query and key head, and a head size of its own."""

from flyweight.models.architecture import ARCHITECTURES
from flyweight.models.common import (
    SizeDefaults,
    assemble,
    attention,
    gated_mlp,
    pre_norm_block,
    read_activation,
    read_sizes,
)
from flyweight.models.config import ConfigReader
from flyweight.models.qwen2 import read_upper_windows
from flyweight.models.rope_parameters import read_rope
from flyweight.models.spec import ModelSpec


@ARCHITECTURES.add("qwen3")
def read_qwen3(config: ConfigReader) -> ModelSpec:
    sizes = read_sizes(config, SizeDefaults(head_dim=128))
    rope = read_rope(config, head_dim=sizes.head_dim, max_positions=sizes.max_positions)
    activation = read_activation(config)
    bias = config.boolean("attention_bias", False)
    windows = read_upper_windows(config, sizes)
    blocks = [
        pre_norm_block(
            sizes,
            index,
            attention=attention(
                sizes,
                index,
                rope=rope,
                qkv_bias=bias,
                output_bias=bias,
                window=windows[index],
                query_norm=sizes.norm(f"{sizes.layer(index)}.self_attn.q_norm", sizes.head_dim),
                key_norm=sizes.norm(f"{sizes.layer(index)}.self_attn.k_norm", sizes.head_dim),
            ),
            mlp=gated_mlp(sizes, index, activation),
        )
        for index in range(sizes.num_layers)
    ]
    is_tied = config.boolean("tie_word_embeddings", False)
    return assemble(config, sizes, blocks, architecture="qwen3", is_tied=is_tied)
