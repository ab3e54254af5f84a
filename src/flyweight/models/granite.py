"""Granite (dense): Llama's block with multipliers on embeddings, scores, residuals and logits."""

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


@ARCHITECTURES.add("granite")
def read_granite(config: ConfigReader) -> ModelSpec:
    """``attention_multiplier`` is the scale of scores itself, 1 when absent; ``logits_scaling`` divides."""
    sizes = read_sizes(config)
    rope = read_rope(config, head_dim=sizes.head_dim, max_positions=sizes.max_positions)
    config.expect("position_embedding_type", "rope", reason="Granite's dense models rotate")
    activation = read_activation(config)
    attention_bias = config.boolean("attention_bias", False)
    mlp_bias = config.boolean("mlp_bias", False)
    scale = config.number("attention_multiplier", 1.0)
    residual_scale = config.number("residual_multiplier", 1.0)
    blocks = [
        pre_norm_block(
            sizes,
            index,
            attention=attention(
                sizes, index, rope=rope, scale=scale, qkv_bias=attention_bias, output_bias=attention_bias
            ),
            mlp=gated_mlp(sizes, index, activation, bias=mlp_bias),
            residual_scale=residual_scale,
        )
        for index in range(sizes.num_layers)
    ]
    return assemble(
        config,
        sizes,
        blocks,
        architecture="granite",
        is_tied=config.boolean("tie_word_embeddings", False),
        embedding_scale=config.number("embedding_multiplier", 1.0),
        logit_scale=1.0 / config.number("logits_scaling", 1.0),
    )
