"""SmolLM3: Llama's block with every few layers without positions."""

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


@ARCHITECTURES.add("smollm3")
def read_smollm3(config: ConfigReader) -> ModelSpec:
    """A 1 in ``no_rope_layers`` means that the layer *has* a position embedding, as in transformers."""
    sizes = read_sizes(config, SizeDefaults(num_kv_heads=4))
    rope = read_rope(config, head_dim=sizes.head_dim, max_positions=sizes.max_positions, default_theta=2_000_000.0)
    activation = read_activation(config)
    attention_bias = config.boolean("attention_bias", False)
    mlp_bias = config.boolean("mlp_bias", False)
    interval = config.integer("no_rope_layer_interval", 4)
    if config.has("no_rope_layers"):
        has_rope = config.flags("no_rope_layers", minimum_length=sizes.num_layers)
    else:
        has_rope = tuple((index + 1) % interval != 0 for index in range(sizes.num_layers))
    config.ignore(["max_window_layers"])  # Qwen's key, written into SmolLM3's files and read by nobody
    window = read_window(config)
    if not config.boolean("use_sliding_window", False):
        window = None
    types = read_layer_types(config, sizes, slides=lambda index: window is not None and not has_rope[index])
    windows = layer_windows(config, types, window)
    blocks = [
        pre_norm_block(
            sizes,
            index,
            attention=attention(
                sizes,
                index,
                rope=rope if has_rope[index] else None,
                qkv_bias=attention_bias,
                output_bias=attention_bias,
                window=windows[index],
            ),
            mlp=gated_mlp(sizes, index, activation, bias=mlp_bias),
        )
        for index in range(sizes.num_layers)
    ]
    is_tied = config.boolean("tie_word_embeddings", True)
    return assemble(config, sizes, blocks, architecture="smollm3", is_tied=is_tied)
