"""Qwen2 and Qwen2.5: biases on queries, keys and values; the upper layers may slide."""

from flyweight.models.architecture import ARCHITECTURES
from flyweight.models.common import (
    Sizes,
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


@ARCHITECTURES.add("qwen2")
def read_qwen2(config: ConfigReader) -> ModelSpec:
    sizes = read_sizes(config)
    rope = read_rope(config, head_dim=sizes.head_dim, max_positions=sizes.max_positions)
    config.expect("use_mrope", False, reason="positions of several axes are for models that see images")
    activation = read_activation(config)
    windows = read_upper_windows(config, sizes)
    blocks = [
        pre_norm_block(
            sizes,
            index,
            attention=attention(sizes, index, rope=rope, qkv_bias=True, window=windows[index]),
            mlp=gated_mlp(sizes, index, activation),
        )
        for index in range(sizes.num_layers)
    ]
    is_tied = config.boolean("tie_word_embeddings", False)
    return assemble(config, sizes, blocks, architecture="qwen2", is_tied=is_tied)


def read_upper_windows(config: ConfigReader, sizes: Sizes) -> tuple[int, ...]:
    """Windows of Qwen's layers: none unless ``use_sliding_window``, then from layer ``max_window_layers`` upwards.

    ``layer_types``, where present, says which layers slide instead.
    """
    first = config.integer("max_window_layers", 28, minimum=0)
    window = read_window(config, absent=4096)
    if not config.boolean("use_sliding_window", False):
        window = None
    types = read_layer_types(config, sizes, slides=lambda index: window is not None and index >= first)
    return layer_windows(config, types, window)
