"""transformers loads what we write: its logits are those of the dense model with the weights we decode."""

import numpy as np
import pytest
import torch
from support.checkpoints import write_tiny_llama, write_word_tokenizer
from support.compressed import compress_rtn, per_token_int8
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from flyweight.formats import IntGroup

INT4 = IntGroup(bits=4, group_size=32, scale_dtype="float32")
INT4_ASYMMETRIC = IntGroup(bits=4, group_size=32, symmetric=False, scale_dtype="float32")
INT8 = IntGroup(bits=8, granularity="channel", group_size=None, scale_dtype="float32")
INT3 = IntGroup(bits=3, group_size=32, scale_dtype="float32")
TOKENS = torch.arange(3, 40)[None]

pytestmark = pytest.mark.filterwarnings("ignore")  # other projects' deprecations


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    write_tiny_llama(folder)
    write_word_tokenizer(folder)
    return folder


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32", **options)


def logits(model) -> np.ndarray:
    with torch.no_grad():
        return model(TOKENS).logits.numpy()


def dense_model(source, stored):
    """The uncompressed model with its linear weights replaced by what the stored ones stand for."""
    model = load(source)
    for name, weight in stored.items():
        model.get_submodule(name).weight.data = torch.tensor(weight.decode())
    return model


@pytest.mark.parametrize(
    ("layout", "activations", "options"),
    [
        (INT4, "float", {}),
        (INT3, "float", {}),
        (INT8, "float", {}),
        # transformers 5.23 with compressed-tensors 0.20 refuses packed zero points unless it dequantizes at once.
        (INT4_ASYMMETRIC, "float", {"dequantize": True}),
        (INT8, "int8", {"dequantize": True}),
    ],
    ids=["int4", "int3", "int8 packed", "int4 asymmetric", "int8 with int8 activations, dequantized"],
)
def test_logits_are_those_of_the_decoded_weights(tmp_path, source, layout, activations, options):
    stored = compress_rtn(source, tmp_path / "out", lambda name: layout, activations=activations)
    loading = {"quantization_config": CompressedTensorsConfig(**options)} if options else {}
    found, expected = logits(load(tmp_path / "out", **loading)), logits(dense_model(source, stored))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected - logits(load(source))).max() > 1e-3 * np.abs(expected).max(), "compression changed nothing"


def test_int8_activations_are_quantized_per_token(tmp_path, source):
    stored = compress_rtn(source, tmp_path / "out", lambda name: INT8, activations="int8")
    expected = dense_model(source, stored)

    def quantize_inputs(module, inputs):
        return (torch.tensor(per_token_int8(inputs[0].numpy())),)

    for name in stored:
        expected.get_submodule(name).register_forward_pre_hook(quantize_inputs)
    found, wanted = logits(load(tmp_path / "out")), logits(expected)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-2 * np.abs(wanted).max())
    weights_only = logits(dense_model(source, stored))
    assert np.abs(found - weights_only).max() > 3 * np.abs(found - wanted).max()


def test_layers_of_different_bits(tmp_path, source):
    stored = compress_rtn(source, tmp_path / "out", lambda name: INT8 if "down_proj" in name else INT4)
    found, expected = logits(load(tmp_path / "out")), logits(dense_model(source, stored))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_tokenizer_comes_along(tmp_path, source):
    compress_rtn(source, tmp_path / "out", lambda name: INT4)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("w3 w9")["input_ids"] == [3, 9]
