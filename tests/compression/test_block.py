"""The streams that calibration carries from block to block are those of the models themselves.

For architectures whose blocks differ (norms before, after or on both sides, fused projections, biases, residual and
attention multipliers): the original stream must be what the decoder gives with the original weights, the compressed
one what it gives with the weights that were written.
"""

import numpy as np
import pytest

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.weights import Weights
from flyweight.compression import CompressOptions, compress
from flyweight.compression.activations import Activations
from flyweight.compression.job import check_job
from flyweight.compression.original import Target
from flyweight.compression.sequences import Piece
from flyweight.compression.units import UnitRunner
from flyweight.models import read_spec
from flyweight.runtime import decoder
from flyweight.runtime.kv_cache import KVCache
from flyweight.runtime.native_ops import NativeOps, PreparedWeights
from flyweight.runtime.sequences import CachedSequence, SequencePlanner
from tests.support.checkpoints import tiny_llama_config, write_checkpoint

COMMON = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}
CONFIGS = {
    "llama": tiny_llama_config(hidden_size=32, intermediate_size=48),
    "qwen2": {**COMMON, "model_type": "qwen2", "hidden_act": "silu"},
    "gemma2": {
        **COMMON,
        "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 8,
        "sliding_window": 16,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "olmo2": {**COMMON, "model_type": "olmo2", "hidden_act": "silu"},
    "phi3": {**COMMON, "model_type": "phi3", "hidden_act": "silu", "pad_token_id": 0, "sliding_window": None},
    "granite": {
        **COMMON,
        "model_type": "granite",
        "hidden_act": "silu",
        "residual_multiplier": 0.4,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.3,
        "logits_scaling": 2.0,
    },
}


def write_model(folder, config, seed=0):
    """Random weights for every tensor that the config's spec names."""
    spec, rng = read_spec(config), np.random.default_rng(seed)
    tensors = {f"{spec.embedding.name}.weight": rng.standard_normal((spec.vocab_size, spec.hidden_size)) / 8}
    for linear in (*spec.linears, *(() if spec.is_tied else spec.head.linears)):
        shape = (linear.out_features, linear.in_features)
        tensors[f"{linear.name}.weight"] = rng.standard_normal(shape) / np.sqrt(linear.in_features)
        if linear.bias:
            tensors[f"{linear.name}.bias"] = rng.standard_normal(linear.out_features) / 4
    for norm in (*(norm for block in spec.blocks for norm in block.norms), spec.final_norm):
        tensors[f"{norm.name}.weight"] = rng.uniform(0.5, 1.5, norm.size) - norm.weight_offset
    write_checkpoint(folder, config, {name: tensor.astype(np.float32) for name, tensor in tensors.items()})


def stream(folder, tokens):
    """The residual stream after the last block, by the decoder."""
    checkpoint = Checkpoint.open(folder)
    spec = read_spec(checkpoint.config)
    prepared = PreparedWeights.prepare(spec, Weights.open(checkpoint, spec), "float32")
    cache = KVCache(spec.blocks, num_blocks=4 * len(tokens))
    batch = SequencePlanner.of(cache).plan([CachedSequence() for _ in tokens], [row.tolist() for row in tokens])
    ops = NativeOps(prepared, cache)
    x = ops.embed(spec.embedding, batch.token_ids)
    for block in spec.blocks:
        x = decoder.run_block(block, ops, x, batch)
    return x


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_streams_are_those_of_the_models(tmp_path, name, monkeypatch):
    monkeypatch.setattr("flyweight.compression.sequences.PIECE_VALUES", 1)
    monkeypatch.setattr(
        "flyweight.compression.sequences.FEWEST_TOKENS_AT_ONCE", 72
    )  # three sequences, and a rest of one
    write_model(tmp_path / "model", CONFIGS[name])
    tokens = np.random.default_rng(1).integers(0, 128, (7, 24))
    np.save(tmp_path / "ids.npy", tokens)
    options = CompressOptions(calibration=tmp_path / "ids.npy", sequences=7, sequence_length=24, group_size=16)
    job = check_job(tmp_path / "model", tmp_path / "out", "gptq-int4", options)
    assert job.wants_targets
    runner = UnitRunner(job, spilled=frozenset(), scratch=tmp_path, advance=lambda name: None)
    runner.begin()
    layers = {}
    for unit in job.units:
        layers |= runner.run(unit)
    rows = tokens.size
    np.testing.assert_allclose(
        runner.streams.original.read(0, rows), stream(tmp_path / "model", tokens), rtol=1e-4, atol=1e-4
    )
    report = compress(tmp_path / "model", tmp_path / "out", "gptq-int4", options)
    assert [layer.name for layer in report.layers] == list(layers)
    compressed = runner.streams.compressed.read(0, rows)
    np.testing.assert_allclose(compressed, stream(tmp_path / "out", tokens), rtol=1e-4, atol=1e-4)
    original = runner.streams.original.read(0, rows)
    assert 0.001 < np.linalg.norm(compressed - original) / np.linalg.norm(original) < 0.35


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_target_undoes_what_follows_the_projection(is_stream):
    """Adding the aimed-at output back, with its bias and the residual scale, gives what the rows hold."""
    rng = np.random.default_rng(0)
    wanted, x, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 8), (4, 8), (8,)))
    rows = Activations(6, 8)
    rows.write(0, wanted)
    target = Target(rows=rows, is_stream=is_stream, is_owned=True, residual_scale=0.4)
    piece = Piece(start=2, stop=6, batch=None)
    y = target.output(piece, x, bias) + bias
    np.testing.assert_allclose(x + np.float32(0.4) * y if is_stream else y, wanted[2:6], atol=1e-6)
    np.testing.assert_allclose(target.output(piece, x, None), y, atol=1e-6)


def test_activations_are_the_same_in_memory_and_in_a_file(tmp_path):
    values = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)
    for file in (None, tmp_path / "rows"):
        rows = Activations(10, 3, file=file)
        rows.write(4, values[4:])
        rows.write(0, values[:4])
        np.testing.assert_array_equal(rows.read(2, 9), values[2:9])
        rows.release()
    assert not list(tmp_path.iterdir())


def test_the_correction_brings_the_stream_back(tmp_path):
    """With targets the compressed stream ends nearer to the original one than without."""
    write_model(tmp_path / "model", CONFIGS["llama"])
    tokens = np.random.default_rng(1).integers(0, 128, (16, 64))
    np.save(tmp_path / "ids.npy", tokens)
    options = CompressOptions(calibration=tmp_path / "ids.npy", sequences=16, sequence_length=64)
    away = {}
    for correct in ("true", "false"):
        recipe = tmp_path / f"{correct}.yaml"
        rule = f"{{match: '*', method: gptq, format: {{bits: 3, group_size: 16}}, options: {{correct: {correct}}}}}"
        recipe.write_text(f"rules:\n  - {rule}\n")
        compress(tmp_path / "model", tmp_path / correct, recipe, options)
        original = stream(tmp_path / "model", tokens)
        away[correct] = np.linalg.norm(stream(tmp_path / correct, tokens) - original)
    assert away["true"] < 0.9 * away["false"]
