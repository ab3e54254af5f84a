"""Llama 2 and 3.x, and the many models published in their layout (SmolLM2 among them)."""

from flyweight.models.architecture import ARCHITECTURES
from flyweight.models.common import (
    assemble,
    attention,
    gated_mlp,
    pre_norm_block,
    read_activation,
    read_sizes,
)
from flyweight.models.config import ConfigReader
from flyweight.models.rope_parameters import read_rope
from flyweight.models.spec import ModelSpec


@ARCHITECTURES.add("llama")
def read_llama(config: ConfigReader) -> ModelSpec:
    """Pre-norm blocks; biases everywhere in attention or in the MLP where the config says so."""
    sizes = read_sizes(config)
    rope = read_rope(config, head_dim=sizes.head_dim, max_positions=sizes.max_positions)
    config.expect("rope_interleaved", False, reason="heads must be in rotate-half order")
    activation = read_activation(config)
    attention_bias = config.boolean("attention_bias", False)
    mlp_bias = config.boolean("mlp_bias", False)
    blocks = [
        pre_norm_block(
            sizes,
            index,
            attention=attention(sizes, index, rope=rope, qkv_bias=attention_bias, output_bias=attention_bias),
            mlp=gated_mlp(sizes, index, activation, bias=mlp_bias),
        )
        for index in range(sizes.num_layers)
    ]
    is_tied = config.boolean("tie_word_embeddings", False)
    return assemble(config, sizes, blocks, architecture="llama", is_tied=is_tied)
