"""The frequency rules against transformers' own, at the sizes of published models."""

import math

import numpy as np
import pytest

from flyweight.models import read_spec
from flyweight.models.rope import attention_factor, inverse_frequencies, rope_table
from flyweight.models.spec import RopeSpec

LONG = [1.0 + 0.3 * i for i in range(48)]
SHORT = [1.0 + 0.01 * i for i in range(48)]

PUBLISHED = {
    "llama-2": {"head_dim": 128, "rope_theta": 10000.0, "max_position_embeddings": 4096},
    "linear": {
        "head_dim": 128,
        "rope_theta": 10000.0,
        "max_position_embeddings": 16384,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "dynamic": {
        "head_dim": 64,
        "rope_theta": 10000,
        "max_position_embeddings": 2048,
        "rope_scaling": {"type": "dynamic", "factor": 8.0},
    },
    "llama-3.2": {
        "head_dim": 64,
        "rope_theta": 500000.0,
        "max_position_embeddings": 131072,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "yarn": {
        "head_dim": 128,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 32768,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    },
    "yarn-all-options": {
        "head_dim": 96,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 1.3,
            "mscale_all_dim": 0.8,
            "truncate": False,
        },
        "max_position_embeddings": 131072,
    },
    "phi-4-mini": {
        "model_type": "phi3",
        "head_dim": 128,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
    },
}


def config_of(options: dict[str, object]) -> dict[str, object]:
    return {
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 512,
        "intermediate_size": 512,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        **options,
    }


def rope_of(name: str) -> RopeSpec:
    rope = read_spec(config_of(PUBLISHED[name])).blocks[0].attention.rope
    assert rope is not None
    return rope


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("length", [100, 5000])
def test_frequencies_and_factor_are_those_of_transformers(name: str, length: int) -> None:
    pytest.importorskip("torch", reason="the oracle needs the torch extra")
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    options = dict(config_of(PUBLISHED[name]))
    config = transformers.AutoConfig.for_model(options.pop("model_type"), **options)
    kind = config.rope_parameters["rope_type"]
    rope = rope_of(name)
    assert rope.kind == kind
    if kind == "default":
        expected, factor = 10000.0 ** (-np.arange(0, 128, 2) / 128), 1.0
    else:
        tensor, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
        expected = tensor.numpy()
    np.testing.assert_allclose(inverse_frequencies(rope, length), expected, rtol=2e-6)
    assert attention_factor(rope) == pytest.approx(factor, rel=1e-7)


def test_only_dynamic_and_longrope_depend_on_the_length() -> None:
    for name in PUBLISHED:
        short, long = inverse_frequencies(rope_of(name), 100), inverse_frequencies(rope_of(name), 5000)
        assert (name in ("dynamic", "phi-4-mini")) == bool(np.any(short != long)), name


def test_llama3_keeps_short_waves_and_slows_long_ones() -> None:
    rope = rope_of("llama-3.2")
    plain = inverse_frequencies(RopeSpec(rotary_dim=64, theta=rope.theta), 1)
    ratio = inverse_frequencies(rope, 1) / plain
    wavelength = 2 * math.pi / plain
    assert np.all(ratio[wavelength < 8192 / 4.0] == 1.0)
    np.testing.assert_allclose(ratio[wavelength > 8192 / 1.0], 1 / 32.0)
    assert np.all(np.diff(ratio) <= 0)


def test_table_is_cosines_and_sines_of_position_times_frequency() -> None:
    rope = rope_of("yarn")
    positions = np.array([0, 1, 77, 8191], np.int32)
    cos, sin = rope_table(rope, positions, 8192)
    assert cos.dtype == sin.dtype == np.float32
    assert cos.shape == (4, 64)
    angles = positions[:, None] * inverse_frequencies(rope, 8192)
    factor = 0.1 * math.log(4.0) + 1.0
    # float32 angles, as the models were trained with: 8191 radians are known to 5e-4
    np.testing.assert_allclose(cos, factor * np.cos(angles), atol=6e-4)
    np.testing.assert_allclose(sin, factor * np.sin(angles), atol=6e-4)
    np.testing.assert_allclose(cos[:3], factor * np.cos(angles[:3]), atol=6e-6)


@pytest.mark.parametrize("name", ["dynamic", "phi-4-mini", "llama-2"])
def test_sequences_of_one_batch_each_have_their_own_length(name: str) -> None:
    rope = rope_of(name)
    positions = np.array([5, 6, 6000, 3], np.int32)
    lengths = np.array([7, 7, 6001, 4], np.int32)
    cos, sin = rope_table(rope, positions, lengths)
    for row, (position, length) in enumerate(zip(positions, lengths, strict=True)):
        alone_cos, alone_sin = rope_table(rope, np.array([position]), int(length))
        np.testing.assert_array_equal(cos[row], alone_cos[0])
        np.testing.assert_array_equal(sin[row], alone_sin[0])


def test_frequencies_are_shared_and_cannot_be_overwritten() -> None:
    with pytest.raises(ValueError, match="read-only"):
        inverse_frequencies(rope_of("llama-2"), 10)[0] = 3.0


def test_no_tokens_give_an_empty_table() -> None:
    cos, sin = rope_table(rope_of("dynamic"), np.zeros(0, np.int32), np.zeros(0, np.int32))
    assert cos.shape == sin.shape == (0, 32)
