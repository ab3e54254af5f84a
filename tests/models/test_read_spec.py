"""Configs of published models read into specs; contradictions and unknown options refused; mutations survived."""

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyweight.errors import CheckpointError, FlyweightError, UnsupportedModelError
from flyweight.models import ARCHITECTURES, is_known, read_spec
from flyweight.models.rope import attention_factor, inverse_frequencies
from flyweight.models.spec import ModelSpec

# The keys that matter of configs as published, old and new style.
LLAMA_32_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}
SMOLLM2: dict[str, Any] = {
    "model_type": "llama",
    "is_llama_config": True,
    "rope_interleaved": False,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
MISTRAL_7B: dict[str, Any] = {
    "model_type": "mistral",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
QWEN25_05B: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3_06B: dict[str, Any] = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GEMMA2_2B: dict[str, Any] = {
    "model_type": "gemma2",
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 107],
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "vocab_size": 256000,
}
GEMMA3_1B: dict[str, Any] = {
    "model_type": "gemma3_text",
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}
GEMMA3_4B: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "image_size": 896},
}
PHI3_MINI: dict[str, Any] = {
    "model_type": "phi3",
    "attention_bias": False,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
}
PHI4_MINI: dict[str, Any] = {
    "model_type": "phi3",
    "full_attn_mod": 1,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 24,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "original_max_position_embeddings": 4096,
    "partial_rotary_factor": 0.75,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"long_factor": [1.5] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}
SMOLLM3: dict[str, Any] = {
    "model_type": "smollm3",
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "layer_types": ["full_attention"] * 36,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 128256,
}
OLMO2_1B: dict[str, Any] = {
    "model_type": "olmo2",
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "vocab_size": 100352,
}
GRANITE_2B: dict[str, Any] = {
    "model_type": "granite",
    "attention_bias": False,
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12.0,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "logits_scaling": 8.0,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "tie_word_embeddings": True,
    "vocab_size": 49155,
}
PUBLISHED = {
    "llama-3.2-1b": LLAMA_32_1B,
    "smollm2": SMOLLM2,
    "mistral-7b": MISTRAL_7B,
    "qwen2.5-0.5b": QWEN25_05B,
    "qwen3-0.6b": QWEN3_06B,
    "gemma-2-2b": GEMMA2_2B,
    "gemma-3-1b": GEMMA3_1B,
    "gemma-3-4b": GEMMA3_4B,
    "phi-3-mini": PHI3_MINI,
    "phi-4-mini": PHI4_MINI,
    "smollm3": SMOLLM3,
    "olmo2-1b": OLMO2_1B,
    "granite-2b": GRANITE_2B,
}


def num_parameters(spec: ModelSpec) -> int:
    tables = spec.vocab_size * spec.hidden_size * (1 if spec.is_tied else 2)
    linears = sum(
        linear.in_features * linear.out_features + linear.bias * linear.out_features for linear in spec.linears
    )
    return tables + linears + spec.final_norm.size + sum(norm.size for block in spec.blocks for norm in block.norms)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-3.2-1b", 1_235_814_400),
        ("smollm2", 134_515_008),
        ("mistral-7b", 7_241_732_096),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen3-0.6b", 596_049_920),
        ("gemma-2-2b", 2_614_341_888),
        ("gemma-3-1b", 999_885_952),
        ("phi-3-mini", 3_821_079_552),
        ("phi-4-mini", 3_836_021_760),
        ("smollm3", 3_075_098_624),
        ("olmo2-1b", 1_484_916_736),
        ("granite-2b", 2_533_531_648),
    ],
)
def test_published_configs_give_the_published_number_of_parameters(name: str, parameters: int) -> None:
    spec = read_spec(PUBLISHED[name])
    assert spec.unread_keys == ()
    assert num_parameters(spec) == parameters


def test_every_architecture_has_a_published_config_here() -> None:
    assert {config["model_type"] for config in PUBLISHED.values()} == set(ARCHITECTURES)


def test_gemma3_wrapper_is_read_for_its_text_model() -> None:
    spec = read_spec(GEMMA3_4B)
    assert spec.embedding.name == "language_model.model.embed_tokens"
    assert spec.eos_token_ids == (1, 106)
    assert spec.bos_token_id is None
    assert (spec.hidden_size, spec.vocab_size, len(spec.blocks)) == (2560, 262_208, 34)
    windows = [block.attention.window for block in spec.blocks]
    assert windows[:7] == [1024, 1024, 1024, 1024, 1024, 0, 1024]
    local, full = spec.blocks[0].attention.rope, spec.blocks[5].attention.rope
    assert local is not None and full is not None  # noqa: PT018
    assert (local.kind, local.theta) == ("default", 10_000.0)
    assert (full.kind, full.factor, full.theta) == ("linear", 8.0, 1_000_000.0)


def test_options_of_families() -> None:
    assert {block.attention.window for block in read_spec(MISTRAL_7B).blocks} == {4096}
    assert {block.attention.window for block in read_spec(QWEN25_05B).blocks} == {0}
    named = read_spec(MISTRAL_7B | {"layer_types": ["sliding_attention", "full_attention"] * 16})
    assert [block.attention.window for block in named.blocks] == [4096, 0] * 16
    sliding = read_spec(QWEN25_05B | {"use_sliding_window": True})
    assert [block.attention.window for block in sliding.blocks] == [0] * 21 + [32768] * 3
    smollm3 = read_spec(SMOLLM3)
    assert [block.attention.rope is None for block in smollm3.blocks[:5]] == [False, False, False, True, False]
    gemma2 = read_spec(GEMMA2_2B)
    assert gemma2.embedding.scale == 48.0
    assert gemma2.blocks[0].attention.scale == 1 / 16
    assert (gemma2.blocks[0].attention.softcap, gemma2.logit_softcap) == (50.0, 30.0)
    assert (gemma2.final_norm.weight_offset, read_spec(LLAMA_32_1B).final_norm.weight_offset) == (1.0, 0.0)
    granite = read_spec(GRANITE_2B)
    assert (granite.embedding.scale, granite.logit_scale, granite.blocks[0].residual_scale) == (12.0, 0.125, 0.22)
    phi = read_spec(PHI4_MINI).blocks[0].attention
    assert phi.rope is not None
    assert (phi.head_dim, phi.rope.rotary_dim, phi.rope.kind, phi.rope.factor) == (128, 96, "longrope", 32.0)
    assert [linear.name.split(".")[-1] for linear in phi.qkv.linears] == ["qkv_proj"]


def test_old_and_new_names_of_rope_options_mean_the_same() -> None:
    new = {key: value for key, value in LLAMA_32_1B.items() if key not in ("rope_scaling", "rope_theta")}
    new["rope_parameters"] = {**LLAMA_32_1B["rope_scaling"], "rope_theta": 500000.0}
    assert read_spec(new) == read_spec(LLAMA_32_1B)

    old = GEMMA3_1B | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    new = {key: value for key, value in old.items() if not key.startswith("rope_")}
    new["rope_parameters"] = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000},
    }
    assert read_spec(new) == read_spec(old)


def test_phi3_calls_longrope_by_three_names() -> None:
    scaling = PHI4_MINI["rope_scaling"]
    for name in ("su", "yarn"):
        assert read_spec(PHI4_MINI | {"rope_scaling": scaling | {"type": name}}) == read_spec(PHI4_MINI)


def test_keys_nobody_read_are_told() -> None:
    spec = read_spec(LLAMA_32_1B | {"brand_new_option": 3, "rope_scaling": LLAMA_32_1B["rope_scaling"] | {"odd": 1}})
    assert spec.unread_keys == ("brand_new_option", "rope_scaling.odd")


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (LLAMA_32_1B, {"model_type": "lama"}, "unknown model_type 'lama'.*known: gemma2, .*; did you mean 'llama'"),
        (LLAMA_32_1B, {"model_type": "gpt_neo"}, "can still be compressed without calibration data"),
        (LLAMA_32_1B, {"model_type": "mixtral", "num_local_experts": 8}, "is a mixture of experts"),
        (LLAMA_32_1B, {"model_type": "jamba", "mamba_d_state": 16}, "is a state-space or hybrid model"),
        (LLAMA_32_1B, {"is_encoder_decoder": True}, "only decoders are"),
        (LLAMA_32_1B, {"architectures": ["LlamaForSequenceClassification"]}, "only language models are supported"),
        (LLAMA_32_1B, {"rope_scaling": {"rope_type": "yarm", "factor": 2}}, "rope_type='yarm'.*did you mean 'yarn'"),
        (LLAMA_32_1B, {"rope_scaling": {"type": "spiral"}}, "type='spiral'.*unknown rope type; known: default, "),
        (LLAMA_32_1B, {"rope_scaling": {"full_attention": {}}}, "one position embedding per layer type"),
        (LLAMA_32_1B, {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5.*rotates whole heads"),
        (LLAMA_32_1B, {"hidden_act": "relu2"}, "hidden_act='relu2'.*supported: silu, "),
        (LLAMA_32_1B, {"rope_interleaved": True}, "rope_interleaved=True.*rotate-half"),
        (PHI4_MINI, {"rope_scaling": {"type": "llama3"}}, "unknown rope type; known: default, longrope, su, yarn"),
        (PHI4_MINI, {"lm_head_bias": True}, "lm_head_bias=True .*no biases"),
        (QWEN3_06B, {"layer_types": ["linear_attention"] * 28}, "layers of type 'linear_attention' are not supported"),
        (GEMMA2_2B, {"use_bidirectional_attention": True}, "the decoder is causal"),
        (GEMMA3_1B, {"attn_logit_softcapping": 50.0}, "normalises queries and keys instead"),
        (GEMMA3_4B, {"text_config": {"model_type": "llama"}}, "the wrapper holds another text model"),
    ],
)
def test_what_is_not_supported_is_named(config: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read_spec(config | changes)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (LLAMA_32_1B, {"model_type": None}, "config.json lacks model_type"),
        (LLAMA_32_1B, {"hidden_size": None}, "config.json lacks hidden_size"),
        (LLAMA_32_1B, {"vocab_size": "many"}, "vocab_size='many' in config.json must be a whole number"),
        (LLAMA_32_1B, {"head_dim": None, "num_attention_heads": 24}, "hidden_size=2048 is not a multiple"),
        (LLAMA_32_1B, {"num_key_value_heads": 5}, "num_attention_heads=32 is not a multiple of num_key_value_heads=5"),
        (LLAMA_32_1B, {"head_dim": 63}, "63 rotated features per head"),
        (LLAMA_32_1B, {"num_hidden_layers": 10**6}, "no model has more than 10000"),
        (LLAMA_32_1B, {"rope_scaling": {"type": "linear"}}, "rope_scaling of config.json lacks factor"),
        (LLAMA_32_1B, {"rope_scaling": {"type": "linear", "factor": -1}}, "factor=-1 in rope_scaling of config.json"),
        (
            LLAMA_32_1B,
            {"rope_scaling": LLAMA_32_1B["rope_scaling"] | {"low_freq_factor": 4.0}},
            "low_freq_factor=4.0 is not below high_freq_factor=4.0",
        ),
        (PHI4_MINI, {"partial_rotary_factor": 0.5}, r"short_factor=\[1.0, .* must be a list of 32 positive numbers"),
        (QWEN3_06B, {"layer_types": ["full_attention"] * 3}, "layer_types has 3 entries for num_hidden_layers=28"),
        (QWEN3_06B, {"layer_types": ["sliding_attention"] * 28}, "sliding_window is not set or not in use"),
        (SMOLLM3, {"no_rope_layers": [1, 0]}, "no_rope_layers=.* at least 36 zeros and ones"),
        (GEMMA3_1B, {"rope_parameters": {"rope_type": "linear"}}, "no full_attention and sliding_attention parts"),
        (GEMMA3_4B, {"text_config": None}, "config.json lacks text_config"),
    ],
)
def test_contradictions_and_gaps_are_named(config: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_spec(config | changes)


def test_is_known() -> None:
    assert is_known({"model_type": "llama"})
    assert not is_known({"model_type": "gpt_neo"})
    assert not is_known({})
    assert not is_known({"model_type": ["llama"]})


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 5)
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "default", "linear", "dynamic", "llama3", "yarn", "longrope", "sliding_attention", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
EXTRA_KEYS = (
    "rope_scaling",
    "rope_parameters",
    "rope_theta",
    "partial_rotary_factor",
    "layer_types",
    "sliding_window",
    "use_sliding_window",
    "head_dim",
    "original_max_position_embeddings",
    "num_experts",
)


@st.composite
def mutated_configs(draw: st.DrawFn) -> dict[str, Any]:
    """A published config, made small, with one to three values replaced, removed or added at any depth."""
    config = copy.deepcopy(draw(st.sampled_from(list(PUBLISHED.values()))))
    config["num_hidden_layers"] = min(config.get("num_hidden_layers", 4), 4)
    for _ in range(draw(st.integers(1, 3))):
        place = config
        key = draw(st.sampled_from([*place, *EXTRA_KEYS]))
        while isinstance(place.get(key), dict) and place[key] and draw(st.booleans()):
            place = place[key]
            key = draw(st.sampled_from([*place, "rope_type", "type", "factor", "attention_factor"]))
        if draw(st.integers(0, 4)) == 0:
            place.pop(key, None)
        else:
            place[key] = draw(JSON_VALUES)
    return config


@settings(max_examples=300, deadline=None, derandomize=True)
@given(config=mutated_configs())
def test_mutated_configs_give_a_spec_or_one_of_our_errors(config: dict[str, Any]) -> None:
    try:
        spec = read_spec(config)
    except FlyweightError as error:
        message: str | None = str(error)
    else:
        message = None
    if message is not None:
        assert message
        assert "\n" not in message
        return
    assert all(linear.in_features > 0 and linear.out_features > 0 for linear in spec.linears)
    assert spec == read_spec(json.loads(json.dumps(config)))
    for rope in {block.attention.rope for block in spec.blocks}:
        if rope is not None and rope.rotary_dim <= 4096:
            assert all(np.isfinite(inverse_frequencies(rope, length)).all() for length in (1, 10**6))
            assert math.isfinite(attention_factor(rope))


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 512),
        ({"rope_type": "dynamic", "factor": 2.0}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
    ],
)
def test_the_context_that_scaled_positions_allow(scaling, context):
    """Linear and dynamic configs name the unstretched context, yarn's the stretched one."""
    from support.checkpoints import tiny_llama_config

    spec = read_spec(tiny_llama_config(max_positions=128) | {"rope_scaling": scaling})
    assert spec.max_positions == context
