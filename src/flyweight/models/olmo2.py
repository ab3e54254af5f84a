"""OLMo 2: norms after attention and MLP instead of before, and over all query and key heads at once."""

from flyweight.models.architecture import ARCHITECTURES
from flyweight.models.common import SizeDefaults, assemble, attention, gated_mlp, read_activation, read_sizes
from flyweight.models.config import ConfigReader
from flyweight.models.rope_parameters import read_rope
from flyweight.models.spec import BlockSpec, ModelSpec


@ARCHITECTURES.add("olmo2")
def read_olmo2(config: ConfigReader) -> ModelSpec:
    sizes = read_sizes(config, SizeDefaults(norm_eps=1e-5))
    rope = read_rope(config, head_dim=sizes.head_dim, max_positions=sizes.max_positions)
    activation = read_activation(config)
    bias = config.boolean("attention_bias", False)
    config.expect("clip_qkv", reason="clipped projections are OLMo 1's")
    blocks = []
    for index in range(sizes.num_layers):
        path = sizes.layer(index)
        query_norm = sizes.norm(f"{path}.self_attn.q_norm", sizes.num_heads * sizes.head_dim)
        key_norm = sizes.norm(f"{path}.self_attn.k_norm", sizes.num_kv_heads * sizes.head_dim)
        blocks.append(
            BlockSpec(
                index=index,
                prefix=path,
                attention=attention(
                    sizes,
                    index,
                    rope=rope,
                    qkv_bias=bias,
                    output_bias=bias,
                    query_norm=query_norm,
                    key_norm=key_norm,
                ),
                mlp=gated_mlp(sizes, index, activation),
                post_attention_norm=sizes.norm(f"{path}.post_attention_layernorm"),
                post_mlp_norm=sizes.norm(f"{path}.post_feedforward_layernorm"),
            )
        )
    is_tied = config.boolean("tie_word_embeddings", False)
    return assemble(config, sizes, blocks, architecture="olmo2", is_tied=is_tied)
