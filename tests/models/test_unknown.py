"""Which tensors of a model we do not know look like linear layers."""

from flyweight.models import linears_without_spec
from flyweight.models.spec import LinearSpec


def names(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    return [linear.name for linear in linears_without_spec(shapes)]


def test_gpt_neo() -> None:
    shapes = {
        "transformer.wte.weight": (14019, 128),
        "transformer.wpe.weight": (256, 128),
        "transformer.h.0.ln_1.weight": (128,),
        "transformer.h.0.attn.attention.k_proj.weight": (128, 128),
        "transformer.h.0.attn.attention.out_proj.weight": (128, 128),
        "transformer.h.0.attn.attention.out_proj.bias": (128,),
        "transformer.h.0.attn.attention.bias": (1, 1, 256, 256),
        "transformer.h.0.mlp.c_fc.weight": (512, 128),
        "transformer.h.0.mlp.c_fc.bias": (512,),
        "lm_head.weight": (14019, 128),
    }
    assert linears_without_spec(shapes) == (
        LinearSpec(name="transformer.h.0.attn.attention.k_proj", in_features=128, out_features=128),
        LinearSpec(name="transformer.h.0.attn.attention.out_proj", in_features=128, out_features=128, bias=True),
        LinearSpec(name="transformer.h.0.mlp.c_fc", in_features=128, out_features=512, bias=True),
    )


def test_transposed_weights_are_left_alone_even_where_they_are_square() -> None:
    shapes = {
        "h.0.attn.c_attn.weight": (64, 192),
        "h.0.attn.c_attn.bias": (192,),
        "h.0.attn.c_proj.weight": (64, 64),
        "h.0.attn.c_proj.bias": (64,),
        "h.0.mlp.c_proj.weight": (256, 64),
        "h.0.mlp.c_proj.bias": (64,),
        "h.0.extra.weight": (64, 32),
    }
    assert names(shapes) == ["h.0.extra"]


def test_routers_norms_heads_and_tables_are_not_linear_layers() -> None:
    shapes = {
        "model.embed_tokens.weight": (100, 64),
        "bert.embeddings.word_embeddings.weight": (100, 64),
        "shared.weight": (100, 64),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 8),
        "model.layers.0.block_sparse_moe.gate.weight": (8, 64),
        "model.layers.0.mlp.shared_expert_gate.weight": (1, 64),
        "model.layers.0.odd_norm.weight": (4, 64),
        "model.layers.0.conv1d.weight": (64, 1, 4),
        "model.layers.0.A_log": (64, 16),
        "model.layers.0.mlp.gate_proj.weight": (96, 64),
        "model.layers.0.mlp.experts.3.w1.weight": (96, 64),
        "output.weight": (100, 64),
        "embed_out.weight": (100, 64),
        "score.weight": (2, 64),
    }
    assert names(shapes) == ["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.experts.3.w1"]


def test_nothing_gives_nothing() -> None:
    assert linears_without_spec({}) == ()
