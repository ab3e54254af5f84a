"""Mistral: Llama's block with one sliding window for all layers, or for those that ``layer_types`` names."""

from flyweight.models.architecture import ARCHITECTURES
from flyweight.models.common import (
    SizeDefaults,
    assemble,
    attention,
    gated_mlp,
    layer_windows,
    pre_norm_block,
    read_activation,
    read_layer_types,
    read_sizes,
    read_window,
)
from flyweight.models.config import ConfigReader
from flyweight.models.rope_parameters import read_rope
from flyweight.models.spec import ModelSpec


@ARCHITECTURES.add("mistral")
def read_mistral(config: ConfigReader) -> ModelSpec:
    """No biases. ``sliding_window: null`` (Mistral 7B v0.2 and later) means full attention."""
    sizes = read_sizes(config, SizeDefaults(num_kv_heads=8))
    rope = read_rope(config, head_dim=sizes.head_dim, max_positions=sizes.max_positions)
    config.expect("attention_bias", False, reason="Mistral has no biases")
    activation = read_activation(config)
    window = read_window(config, absent=4096)
    types = read_layer_types(config, sizes, slides=lambda index: window is not None)
    windows = layer_windows(config, types, window)
    blocks = [
        pre_norm_block(
            sizes,
            index,
            attention=attention(sizes, index, rope=rope, window=windows[index]),
            mlp=gated_mlp(sizes, index, activation),
        )
        for index in range(sizes.num_layers)
    ]
    is_tied = config.boolean("tie_word_embeddings", False)
    return assemble(config, sizes, blocks, architecture="mistral", is_tied=is_tied)
