"""The compressed-tensors layout, against the library that owns it: what it writes we read, what we write it reads."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from support.checkpoints import (
    FLOATS,
    encode_safetensors,
    random_llama_tensors,
    tiny_llama_config,
    write_checkpoint,
    write_tiny_llama,
)
from support.compressed import compress_rtn

from flyweight.checkpoint.compressed_tensors import linear_tensors, quantization_config
from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.safetensors_file import SafetensorsFile
from flyweight.checkpoint.weights import Weights
from flyweight.errors import CheckpointError, UnsupportedModelError
from flyweight.formats import IntGroup, Plain, StoredWeight
from flyweight.models import read_spec

DOWN = "model.layers.0.mlp.down_proj"
SCHEMES = [
    IntGroup(bits=bits, granularity=granularity, group_size=group_size, symmetric=symmetric, scale_dtype=scale_dtype)
    for bits in range(2, 9)
    for granularity, group_size in (("group", 16), ("channel", None), ("tensor", None))
    for symmetric in (True, False)
    for scale_dtype in (("float32", "bfloat16", "float16") if bits in (4, 8) else ("float32",))
]


def opened(folder) -> Weights:
    checkpoint = Checkpoint.open(folder)
    return Weights.open(checkpoint, read_spec(checkpoint.config))


def library_scheme(group: Mapping[str, object]) -> QuantizationScheme:
    return QuantizationScheme.model_validate(group)


def as_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(array)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(FLOATS["bfloat16"])
    return tensor.contiguous().numpy()


def random_weight(shape=(40, 96)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) + 0.2


def random_stored(layout: IntGroup) -> StoredWeight:
    return layout.encode(random_weight())


# --- what we write, the library reads -----------------------------------------------------------------------------


@pytest.mark.parametrize("activations", ["float", "int8"])
@pytest.mark.parametrize("layout", SCHEMES, ids=lambda layout: f"{layout.name} {layout.scale_dtype}")
def test_the_library_decompresses_to_the_same_weights(layout, activations):
    stored = random_stored(layout)
    tensors = linear_tensors("a.b", stored, activations=activations)
    config = quantization_config({"a.b": layout}, activations={"a.b": activations})
    group = config["config_groups"]["group_0"]
    scheme = library_scheme(group)
    local = {name.removeprefix("a.b."): as_torch(tensor) for name, tensor in tensors.items()}
    compressor = BaseCompressor.get_value_from_registry(group["format"])
    assert set(local) == set(compressor.compression_param_names(scheme))
    theirs = compressor.decompress(local, scheme)["weight"]
    # The library multiplies in the dtype of the scales: the same numbers, rounded once to that dtype.
    expected = stored.decode().astype(FLOATS[layout.scale_dtype])
    np.testing.assert_array_equal(as_numpy(theirs), expected)


@pytest.mark.parametrize("layout", SCHEMES, ids=lambda layout: f"{layout.name} {layout.scale_dtype}")
def test_the_size_on_disk_is_the_one_stated(layout):
    stored = random_stored(layout)
    tensors = linear_tensors("a", stored)
    if layout.granularity == "tensor" and not layout.symmetric:
        return  # a single zero point is stored as int8, not packed into a word
    assert sum(t.nbytes for name, t in tensors.items() if name != "a.weight_shape") == stored.nbytes


# --- what the library writes, we read -----------------------------------------------------------------------------


def written_by_the_library(folder, weights: Mapping[str, int], inputs: Mapping[str, object] | None, storage: str):
    """A tiny Llama whose down projections were compressed by the library; the weights it would decompress to."""
    config = tiny_llama_config(num_layers=1)
    tensors = random_llama_tensors(config)
    arguments = QuantizationArgs.model_validate(weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments, input_activations=inputs, format=storage)
    weight = torch.tensor(tensors.pop(f"{DOWN}.weight"))
    length = weights["group_size"] if weights["group_size"] != -1 else 96
    grouped = weight.reshape(64, 96 // length, length)
    scale = grouped.abs().amax(-1) / (2 ** (arguments.num_bits - 1) - 0.5)
    zero_point = torch.zeros_like(scale).to(torch.int8)
    if not arguments.symmetric:
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scale = (high - low) / (2**arguments.num_bits - 1)
        zero_point = (-(2 ** (arguments.num_bits - 1)) - low / scale).round().to(torch.int8)
    compressor = BaseCompressor.get_value_from_registry(storage)
    local = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero_point}
    packed = compressor.compress(local, scheme)
    tensors |= {f"{DOWN}.{name}": as_numpy(tensor) for name, tensor in packed.items()}
    others = [name.removesuffix(".weight") for name in tensors if name.endswith("_proj.weight") and DOWN not in name]
    dump = scheme.model_dump() | {"format": storage}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": storage,
        "quantization_status": "compressed",
        "config_groups": {"group_0": dump},
        "ignore": ["lm_head", *others],
    }
    write_checkpoint(folder, json.loads(json.dumps(config, default=str)), tensors)
    return as_numpy(compressor.decompress(packed, scheme)["weight"])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [32, None])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_packed_by_the_library(tmp_path, bits, group_size, symmetric):
    weights = {"num_bits": bits, "symmetric": symmetric, "group_size": group_size or -1}
    theirs = written_by_the_library(tmp_path, weights, None, "pack-quantized")
    found = opened(tmp_path)
    down = next(linear for linear in found.spec.linears if linear.name == DOWN)
    stored = found.linear(down)
    np.testing.assert_array_equal(stored.decode(), theirs)
    granularity = "group" if group_size else "channel"
    assert stored.format == found.format(down)
    assert stored.format == IntGroup(
        bits=bits, granularity=granularity, group_size=group_size, symmetric=symmetric, scale_dtype="float32"
    )
    assert found.activations(down) == "float"
    assert found.unused == ()


@pytest.mark.parametrize("storage", ["int-quantized", "naive-quantized"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group_size"), [(8, None), (8, 32), (4, 32)])
def test_int8_written_by_the_library(tmp_path, bits, group_size, symmetric, storage):
    weights = {"num_bits": bits, "symmetric": symmetric, "group_size": group_size or -1}
    inputs = {"num_bits": 8, "symmetric": True, "dynamic": True, "strategy": "token"}
    theirs = written_by_the_library(tmp_path, weights, inputs, storage)
    found = opened(tmp_path)
    down = next(linear for linear in found.spec.linears if linear.name == DOWN)
    np.testing.assert_array_equal(found.linear(down).decode(), theirs)
    assert found.activations(down) == "int8"
    assert found.activations(found.spec.linears[0]) == "float"


# --- round trips of our own ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", ["float", "int8"])
def test_mixed_precision_round_trip(tmp_path, activations):
    write_tiny_llama(tmp_path / "a", dtype="bfloat16", tied=False)

    def choose(name: str):
        if "v_proj" in name:
            return Plain(dtype="bfloat16")
        bits = 8 if "down_proj" in name else 4
        return IntGroup(bits=bits, group_size=32, symmetric="o_proj" not in name)

    stored = compress_rtn(tmp_path / "a", tmp_path / "b", choose, activations=activations)
    found = opened(tmp_path / "b")
    for linear in found.spec.linears:
        read = found.linear(linear)
        assert read.format == found.format(linear) == stored[linear.name].format
        for name, tensor in stored[linear.name].tensors.items():
            assert read.tensors[name].dtype == tensor.dtype
            np.testing.assert_array_equal(read.tensors[name], tensor)
        assert found.activations(linear) == ("float" if "v_proj" in linear.name else activations)
    assert found.unused == ()
    assert found.head_format(found.spec) == Plain(dtype="bfloat16")
    found.check_finite()


@pytest.mark.parametrize("layout", SCHEMES, ids=lambda layout: f"{layout.name} {layout.scale_dtype}")
def test_every_format_round_trips(tmp_path, layout):
    write_tiny_llama(tmp_path / "a", num_layers=1)
    stored = compress_rtn(tmp_path / "a", tmp_path / "b", lambda name: layout)
    found = opened(tmp_path / "b")
    for linear in found.spec.linears:
        read = found.linear(linear)
        assert read.format == layout
        for name, tensor in stored[linear.name].tensors.items():
            np.testing.assert_array_equal(read.tensors[name], tensor)


def test_a_quantized_head(tmp_path):
    config = tiny_llama_config(tied=False)
    tensors = random_llama_tensors(config)
    layout = IntGroup(bits=8, group_size=32, scale_dtype="float32")
    stored = layout.encode(tensors.pop("lm_head.weight"))
    tensors |= linear_tensors("lm_head", stored)
    names = [name.removesuffix(".weight") for name in tensors if name.endswith("_proj.weight")]
    formats = {"lm_head": layout} | dict.fromkeys(names, Plain(dtype="float32"))
    config["quantization_config"] = quantization_config(formats, ignore=())
    found = opened(write_checkpoint(tmp_path, config, tensors))
    np.testing.assert_array_equal(found.head(found.spec).decode(), stored.decode())
    assert found.head_format(found.spec) == layout


# --- contradictions between the config and the tensors ------------------------------------------------------------


@pytest.fixture
def packed(tmp_path):
    write_tiny_llama(tmp_path / "a", num_layers=1)
    layout = IntGroup(bits=4, group_size=32, symmetric=False, scale_dtype="float32")
    compress_rtn(tmp_path / "a", tmp_path / "b", lambda name: layout)
    return tmp_path / "b"


@pytest.fixture
def w8a8(tmp_path):
    write_tiny_llama(tmp_path / "a", num_layers=1)
    layout = IntGroup(bits=4, granularity="channel", group_size=None, scale_dtype="float32")
    compress_rtn(tmp_path / "a", tmp_path / "b", lambda name: layout, activations="int8")
    return tmp_path / "b"


def change(folder, **tensors: np.ndarray | None) -> None:
    """Replace tensors of the down projection by local name; None removes."""
    path = folder / "model-00001-of-00002.safetensors"
    file = SafetensorsFile(path)
    content = {name: file.read(name) for name in file.names}
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for local, tensor in tensors.items():
        name = f"{DOWN}.{local}"
        content.pop(name, None)
        index["weight_map"].pop(name, None)
        if tensor is not None:
            content[name] = tensor
            index["weight_map"][name] = path.name
    path.write_bytes(encode_safetensors(content, {"format": "pt"}))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def change_config(folder, **options: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"] |= options
    (folder / "config.json").write_text(json.dumps(config))


def read_all(folder) -> None:
    found = opened(folder)
    for linear in found.spec.linears:
        found.linear(linear)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight_scale": None}, f"lacks tensor {DOWN}.weight_scale of shape [64, 3]; the layer is stored as"),
        ({"weight_shape": None}, f"lacks tensor {DOWN}.weight_shape of shape [2]; the layer is stored as"),
        ({"weight_zero_point": None}, f"lacks tensor {DOWN}.weight_zero_point of shape [8, 3]"),
        (
            {"weight_scale": np.ones((64, 2), np.float32)},
            f"tensor {DOWN}.weight_scale has shape [64, 2], but config.json asks for [64, 3]",
        ),
        (
            {"weight_packed": np.ones((64, 11), np.int32)},
            f"tensor {DOWN}.weight_packed has shape [64, 11], but config.json asks for [64, 12]",
        ),
        (
            {"weight_packed": np.ones((64, 12), np.uint32)},
            f"tensor {DOWN}.weight_packed has dtype uint32, which is not read there; allowed: int32",
        ),
        (
            {"weight_scale": np.full((64, 3), np.nan, np.float32)},
            f"tensor {DOWN}.weight_scale holds values that are not finite; download the checkpoint again",
        ),
        ({"weight_shape": np.array([96, 64])}, f"tensor {DOWN}.weight_shape says [96, 64], not [64, 96]"),
        ({"weight": np.ones((64, 96), np.float32)}, ""),
    ],
)
def test_packed_tensors_that_contradict_the_config(packed, tensors, message):
    change(packed, **tensors)
    if not message:  # a tensor too many is no contradiction; it is told as unused
        assert opened(packed).unused == (f"{DOWN}.weight",)
        return
    with pytest.raises(CheckpointError) as caught:
        read_all(packed)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_groups_in_activation_order(packed):
    change(packed, weight_g_idx=np.arange(96, dtype=np.int32) // 32)
    with pytest.raises(UnsupportedModelError, match=r"weight_g_idx is there: the groups follow the activation order"):
        opened(packed)


def test_a_group_size_that_does_not_divide(packed):
    change_config(packed, group_size=40)
    with pytest.raises(UnsupportedModelError, match=r"group_size=40 does not divide in_features=64 of model.layers.0"):
        opened(packed)


def test_codes_out_of_range(w8a8):
    read_all(w8a8)
    change(w8a8, weight=np.full((64, 96), 8, np.int8))
    with pytest.raises(CheckpointError, match=r"down_proj.weight holds codes from 8 to 8; 4 bits hold -8 to 7"):
        read_all(w8a8)


def test_zeros_of_symmetric_weights(w8a8):
    """Older releases stored them; anything but zeros would change the weights."""
    change(w8a8, weight_zero_point=np.zeros((64, 1), np.int8))
    read_all(w8a8)
    assert opened(w8a8).unused == ()
    change(w8a8, weight_zero_point=np.ones((64, 1), np.int8))
    with pytest.raises(CheckpointError, match=r"weight_zero_point is not zero although quantization_config says sym"):
        read_all(w8a8)


def test_a_layer_that_the_config_leaves_out(packed):
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"]["ignore"].append(DOWN)
    (packed / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as caught:
        opened(packed)
    assert f"lacks tensor {DOWN}.weight of shape [64, 96]; the layer is stored as {DOWN}.weight_packed, " in str(
        caught.value
    )
    assert "which does not fit what quantization_config says of it" in str(caught.value)
