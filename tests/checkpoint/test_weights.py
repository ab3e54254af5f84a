"""Weights by what they are in the model; missing, wrongly shaped and not finite ones are named."""

import re

import ml_dtypes
import numpy as np
import pytest
from support.checkpoints import (
    encode_safetensors,
    random_llama_tensors,
    tiny_llama_config,
    write_checkpoint,
)

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.weights import Weights
from flyweight.errors import CheckpointError, UnsupportedModelError
from flyweight.formats import Plain
from flyweight.models import read_spec

DOWN = "model.layers.1.mlp.down_proj.weight"


def opened(folder) -> Weights:
    checkpoint = Checkpoint.open(folder)
    return Weights.open(checkpoint, read_spec(checkpoint.config))


def refusal(folder, error=CheckpointError) -> str:
    with pytest.raises(error) as caught:
        opened(folder)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_everything_is_read(tmp_path, dtype, tied):
    config = tiny_llama_config(dtype=dtype, tied=tied)
    tensors = random_llama_tensors(config)
    weights = opened(write_checkpoint(tmp_path, config, tensors, num_shards=2))
    spec = weights.spec
    for linear in spec.linears:
        stored = weights.linear(linear)
        assert stored.format == weights.format(linear) == Plain(dtype=dtype)
        assert np.array_equal(stored.decode(), tensors[f"{linear.name}.weight"].astype(np.float32))
        assert stored.tensors["weight"].flags.writeable, "a copy, so that its memory goes when it is dropped"
        assert weights.bias(linear) is None
        assert weights.activations(linear) == "float"
    norm = spec.blocks[0].norms[0]
    assert np.array_equal(weights.norm(norm), tensors[f"{norm.name}.weight"].astype(np.float32))
    assert weights.norm(norm).dtype == np.float32
    table = weights.embedding(spec.embedding)
    assert (table.dtype, table.shape) == (tensors["model.embed_tokens.weight"].dtype, (128, 64))
    assert not table.flags.writeable, "mapped: only the rows that are looked up are read"
    head = tensors["model.embed_tokens.weight" if tied else "lm_head.weight"]
    assert np.array_equal(weights.head(spec).decode(), head.astype(np.float32))
    assert weights.head_format(spec) == Plain(dtype=dtype)
    assert weights.used == tuple(sorted(tensors))
    assert weights.unused == ()
    weights.check_finite()


def test_biases_are_read_as_float32(tmp_path):
    config = tiny_llama_config(dtype="bfloat16") | {"attention_bias": True}
    tensors = random_llama_tensors(config)
    rng = np.random.default_rng(1)
    for name in [name for name in tensors if "self_attn" in name]:
        bias = rng.standard_normal(len(tensors[name])).astype(ml_dtypes.bfloat16)
        tensors[name.replace(".weight", ".bias")] = bias
    weights = opened(write_checkpoint(tmp_path, config, tensors))
    query = weights.spec.blocks[0].attention.qkv.linears[0]
    bias = weights.bias(query)
    assert bias is not None
    assert bias.dtype == np.float32
    assert np.array_equal(bias, tensors[f"{query.name}.bias"].astype(np.float32))
    del tensors[f"{query.name}.bias"]
    (tmp_path / "model.safetensors").write_bytes(encode_safetensors(tensors))
    assert "lacks tensor model.layers.0.self_attn.q_proj.bias of shape [64]" in refusal(tmp_path)


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight", "both"])
def test_a_tied_pair_under_either_name(tmp_path, kept):
    config = tiny_llama_config(tied=True)
    tensors = random_llama_tensors(config)
    table = tensors.pop("model.embed_tokens.weight")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if kept in (name, "both"):
            tensors[name] = table
    weights = opened(write_checkpoint(tmp_path, config, tensors))
    assert np.array_equal(weights.embedding(weights.spec.embedding), table)
    assert np.array_equal(weights.head(weights.spec).decode(), table)
    assert weights.unused == ()


@pytest.mark.parametrize("name", ["lm_head.weight", "lm_head.weight_packed"])
def test_a_tied_pair_that_differs(tmp_path, name):
    """transformers would use the head's own tensor, vLLM the embedding: nobody may guess."""
    config = tiny_llama_config(tied=True)
    tensors = random_llama_tensors(config)
    tensors[name] = tensors["model.embed_tokens.weight"].copy()
    tensors[name][100, 3] += 1
    write_checkpoint(tmp_path, config, tensors)
    assert refusal(tmp_path) == (
        f"{tmp_path}: config.json says tie_word_embeddings, but {name} is stored and differs from "
        "model.embed_tokens.weight; set tie_word_embeddings to false in config.json to use it, or remove the tensor"
    )


def test_what_the_model_has_no_place_for(tmp_path):
    config = tiny_llama_config()
    tensors = random_llama_tensors(config)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    tensors["vision.weight"] = np.ones(1, np.float32)
    tensors["model.layers.2.mlp.up_proj.weight"] = np.ones((2, 2), np.float32)
    weights = opened(write_checkpoint(tmp_path, config, tensors))
    assert weights.unused == ("model.layers.2.mlp.up_proj.weight", "vision.weight")


def test_a_missing_tensor(tmp_path):
    config = tiny_llama_config()
    tensors = random_llama_tensors(config)
    del tensors[DOWN]
    write_checkpoint(tmp_path, config, tensors)
    assert refusal(tmp_path) == (
        f"{tmp_path} lacks tensor {DOWN} of shape [64, 96]; download the checkpoint again, or check that config.json "
        "belongs to it"
    )


def test_several_missing_tensors_are_counted(tmp_path):
    config = tiny_llama_config(num_layers=3)
    tensors = random_llama_tensors(tiny_llama_config(num_layers=2))
    write_checkpoint(tmp_path, config, tensors)
    assert re.search(
        r"lacks tensor model.layers.2.\S+ of shape \[\d+, \d+\] \(and 8 more\); download", refusal(tmp_path)
    )


def test_a_wrongly_shaped_tensor(tmp_path):
    config = tiny_llama_config()
    tensors = random_llama_tensors(config)
    tensors[DOWN] = tensors[DOWN].T
    write_checkpoint(tmp_path, config, tensors)
    assert refusal(tmp_path) == (
        f"{tmp_path}: tensor {DOWN} has shape [96, 64], but config.json asks for [64, 96]; check that config.json "
        "belongs to these weights"
    )


@pytest.mark.parametrize("dtype", [np.int8, np.float64, ml_dtypes.float8_e4m3fn])
def test_a_dtype_that_is_no_weight(tmp_path, dtype):
    config = tiny_llama_config()
    tensors = random_llama_tensors(config)
    tensors[DOWN] = tensors[DOWN].astype(dtype)
    write_checkpoint(tmp_path, config, tensors)
    assert refusal(tmp_path) == (
        f"{tmp_path}: tensor {DOWN} has dtype {np.dtype(dtype)}, which is not read there; allowed: float32, float16, "
        "bfloat16"
    )


def test_an_untied_head_that_is_missing(tmp_path):
    config = tiny_llama_config(tied=False)
    tensors = random_llama_tensors(config)
    del tensors["lm_head.weight"]
    write_checkpoint(tmp_path, config, tensors)
    assert "lacks tensor lm_head.weight of shape [128, 64]; download" in refusal(tmp_path)


def test_an_unknown_quantization(tmp_path):
    config = tiny_llama_config() | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    write_checkpoint(tmp_path, config, random_llama_tensors(config))
    assert refusal(tmp_path, UnsupportedModelError) == (
        f"{tmp_path} is quantized with quant_method 'gptq', which is not read; supported: compressed-tensors, plain: "
        "start from the unquantized checkpoint"
    )


@pytest.mark.parametrize("value", [{}, [], "x", {"quant_method": 3}])
def test_a_quantization_without_a_method(tmp_path, value):
    config = tiny_llama_config() | {"quantization_config": value}
    write_checkpoint(tmp_path, config, random_llama_tensors(config))
    assert "has a quantization_config without quant_method; supported: compressed-tensors, plain" in refusal(tmp_path)


# --- NaN and infinity ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [(0, 0), (3, 17), (63, 95)])
def test_the_first_bad_value_is_named(tmp_path, dtype, value, index):
    config = tiny_llama_config(dtype=dtype)
    tensors = random_llama_tensors(config)
    tensors[DOWN][index] = value
    tensors[DOWN][63, 95] = value
    weights = opened(write_checkpoint(tmp_path, config, tensors))
    with pytest.raises(CheckpointError) as caught:
        weights.check_finite()
    assert str(caught.value) == (
        f"{tmp_path}: tensor {DOWN} holds {value} at index {list(index)}; the weights are damaged: download the "
        "checkpoint again, or repair the model before compressing it"
    )
    weights.check_finite([name for name in weights.used if name != DOWN])


def test_the_largest_finite_values_are_finite(tmp_path):
    config = tiny_llama_config(dtype="bfloat16")
    tensors = random_llama_tensors(config)
    tensors[DOWN][:] = ml_dtypes.finfo(ml_dtypes.bfloat16).max
    tensors["model.norm.weight"][:] = -ml_dtypes.finfo(ml_dtypes.bfloat16).smallest_subnormal
    opened(write_checkpoint(tmp_path, config, tensors)).check_finite()


def test_a_bad_value_beyond_the_first_piece(tmp_path):
    """The tensor is read in several pieces; the index counts through them."""
    config = tiny_llama_config(vocab_size=40_000, num_layers=1)
    tensors = random_llama_tensors(config)
    tensors["model.embed_tokens.weight"][39_000, 5] = np.nan
    weights = opened(write_checkpoint(tmp_path, config, tensors))
    assert sum(1 for _ in weights.checkpoint.chunks("model.embed_tokens.weight")) > 1
    with pytest.raises(
        CheckpointError, match=re.escape("tensor model.embed_tokens.weight holds nan at index [39000, 5]")
    ):
        weights.check_finite()
