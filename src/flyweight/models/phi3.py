"""Phi-3, Phi-3.5 and Phi-4 (dense): fused projections, longrope, and part of each head rotated (Phi-4-mini)."""

from flyweight.models.architecture import ARCHITECTURES
from flyweight.models.common import (
    SizeDefaults,
    Sizes,
    assemble,
    group_of_one,
    pre_norm_block,
    read_activation,
    read_sizes,
    read_window,
)
from flyweight.models.config import ConfigReader
from flyweight.models.rope_parameters import read_rope
from flyweight.models.spec import Activation, AttentionSpec, BlockSpec, MlpSpec, ModelSpec, RopeKind, RopeSpec

# Early Phi-3 files call longrope "su" or, with the same two lists of factors, "yarn".
KINDS: dict[str, RopeKind] = {"default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"}


@ARCHITECTURES.add("phi3")
def read_phi3(config: ConfigReader) -> ModelSpec:
    sizes = read_sizes(config, SizeDefaults(norm_eps=1e-5))
    rope = read_rope(
        config, head_dim=sizes.head_dim, max_positions=sizes.max_positions, kinds=KINDS, can_be_partial=True
    )
    for key in ("attention_bias", "mlp_bias", "lm_head_bias"):
        config.expect(key, False, reason="Phi-3 has no biases")
    for key in ("full_attn_mod", "interpolate_factor"):
        config.expect(key, 1, reason="every layer attends and interpolates alike")
    activation = read_activation(config)
    window = read_window(config) or 0
    blocks = [_block(sizes, index, rope, window, activation) for index in range(sizes.num_layers)]
    is_tied = config.boolean("tie_word_embeddings", False)
    return assemble(config, sizes, blocks, architecture="phi3", is_tied=is_tied)


def _block(sizes: Sizes, index: int, rope: RopeSpec, window: int, activation: Activation) -> BlockSpec:
    path = sizes.layer(index)
    query_size, key_size = sizes.num_heads * sizes.head_dim, sizes.num_kv_heads * sizes.head_dim
    attention = AttentionSpec(
        qkv=group_of_one(f"{path}.self_attn.qkv_proj", sizes.hidden_size, query_size + 2 * key_size),
        output=group_of_one(f"{path}.self_attn.o_proj", query_size, sizes.hidden_size),
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        scale=sizes.head_dim**-0.5,
        rope=rope,
        window=window,
    )
    mlp = MlpSpec(
        gate_up=group_of_one(f"{path}.mlp.gate_up_proj", sizes.hidden_size, 2 * sizes.intermediate_size),
        down=group_of_one(f"{path}.mlp.down_proj", sizes.intermediate_size, sizes.hidden_size),
        activation=activation,
    )
    return pre_norm_block(sizes, index, attention=attention, mlp=mlp)
