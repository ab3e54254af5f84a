"""Thousands of damaged files: each gives an error of ours, or is read exactly as the safetensors library reads it."""

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.checkpoints import encode_safetensors, safetensors_bytes, tiny_llama_config, write_tiny_llama

from flyweight.checkpoint.huggingface import INDEX_FILE, Checkpoint
from flyweight.checkpoint.safetensors_file import SafetensorsFile
from flyweight.errors import CheckpointError

MANY = settings(
    max_examples=800, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TENSORS = {
    "model.embed_tokens.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
    "model.norm.weight": np.arange(3, dtype=np.float16),
    "b": np.arange(4).astype(ml_dtypes.bfloat16),
    "codes": np.arange(-4, 4, dtype=np.int8).reshape(2, 4),
    "none": np.empty((0, 2), np.float32),
}
WHOLE = encode_safetensors(TENSORS, {"format": "pt"})
HEADER_END = 8 + int.from_bytes(WHOLE[:8], "little")
HEADER: dict[str, Any] = json.loads(WHOLE[8:HEADER_END])
DATA = WHOLE[HEADER_END:]


def check_message(message: str, start: str) -> None:
    assert message.startswith(start)
    assert message.isprintable(), f"not one clear line: {message!r}"
    assert len(message) < 1500


def read_or_refuse(path: Path, content: bytes) -> bool:
    """Read all of a file in every way; whether it was read. Anything but our error fails the test."""
    path.write_bytes(content)
    try:
        file = SafetensorsFile(path)
        for name in file.names:
            mapped, copied = file.tensor(name), file.read(name)
            assert mapped.tobytes() == copied.tobytes()
            assert copied.shape == file.shape(name)
            assert copied.dtype == file.dtype(name)
    except CheckpointError as error:
        check_message(str(error), f"{path} ")
        return False
    theirs = dict(safetensors.deserialize(content))
    assert set(file.names) == set(theirs), "read here, but otherwise by the safetensors library"
    for name in file.names:
        assert file.read(name).tobytes() == bytes(theirs[name]["data"])
        assert list(file.shape(name)) == theirs[name]["shape"]
    return True


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


def test_the_undamaged_file_is_read(path):
    assert read_or_refuse(path, WHOLE)


def damaged(whole: bytes, seed: int) -> bytes:
    """One to three changes at random places. Drawn from a seed: ten times as fast as drawing each from hypothesis."""
    random = Random(seed)
    content = bytearray(whole)
    for _ in range(random.randint(1, 3)):
        position = random.randrange(len(content) + 1)
        match random.choice(["change", "flip", "remove", "insert", "cut", "repeat"]):
            case "change":
                content[position : position + 1] = random.randbytes(1)
            case "flip":
                content[position : position + 1] = bytes(b ^ 1 << random.randrange(8) for b in content[position:][:1])
            case "remove":
                del content[position : position + random.randint(1, 9)]
            case "insert":
                content[position:position] = random.randbytes(random.randint(1, 9))
            case "cut":
                del content[position:]
            case "repeat":
                content[position:position] = content[position : position + random.randint(1, 40)]
    return bytes(content)


@MANY
@given(seed=st.integers(0, 2**32))
def test_bytes_changed_removed_and_inserted(path, seed):
    read_or_refuse(path, damaged(WHOLE, seed))


@MANY
@given(seed=st.integers(0, 2**32))
def test_header_text_changed_removed_and_inserted(path, seed):
    """The stated length follows the text, so that the damage reaches the JSON."""
    text = damaged(WHOLE[8:HEADER_END].rstrip(), seed)
    read_or_refuse(path, safetensors_bytes(text, DATA))


SIZES = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([2**31, 2**32, 2**53, 2**61, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, 10**4200, -(2**63)]),
)
VALUES = st.one_of(
    SIZES,
    st.none(),
    st.booleans(),
    st.floats(allow_nan=True),
    st.text(max_size=5),
    st.lists(SIZES, max_size=4),
    st.dictionaries(st.text(max_size=3), SIZES, max_size=2),
    st.sampled_from(["F64", "F32", "F16", "BF16", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "f32"]),
)


@settings(MANY, max_examples=600)
@given(data=st.data())
def test_headers_that_lie(path, data):
    header = copy.deepcopy(HEADER)
    content = DATA
    for _ in range(data.draw(st.integers(1, 3))):
        names = [name for name in header if name != "__metadata__" and isinstance(header[name], dict)]
        if not names:
            break
        name = data.draw(st.sampled_from(names))
        match data.draw(
            st.sampled_from(["field", "item", "drop", "extra", "rename", "entry", "metadata", "swap", "data"])
        ):
            case "field":
                header[name][data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = data.draw(VALUES)
            case "item":
                values = header[name].get(data.draw(st.sampled_from(["shape", "data_offsets"])))
                if isinstance(values, list) and values:
                    values[data.draw(st.integers(0, len(values) - 1))] = data.draw(VALUES)
            case "drop":
                header[name].pop(data.draw(st.sampled_from(["dtype", "shape", "data_offsets"])), None)
            case "extra":
                header[name][data.draw(st.text(max_size=4))] = data.draw(VALUES)
            case "rename":
                header[data.draw(st.text(max_size=6))] = header.pop(name)
            case "entry":
                header[name] = data.draw(VALUES)
            case "metadata":
                header["__metadata__"] = data.draw(VALUES)
            case "swap":
                other = data.draw(st.sampled_from(names))
                header[name], header[other] = header[other], header[name]
            case "data":
                content = content[: data.draw(st.integers(0, len(content)))] + data.draw(st.binary(max_size=4))
    read_or_refuse(path, safetensors_bytes(json.dumps(header).encode("utf-8", "surrogatepass"), content))


@settings(MANY, max_examples=200)
@given(text=st.recursive(VALUES, lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8))
def test_any_json_as_a_header(path, text):
    read_or_refuse(path, safetensors_bytes(json.dumps(text).encode("utf-8", "surrogatepass"), b"1234"))


def test_every_truncation_is_refused(path):
    for length in range(len(WHOLE)):
        assert not read_or_refuse(path, WHOLE[:length])


# --- the JSON files around the shards -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    write_tiny_llama(folder, num_shards=2, num_layers=1)
    return folder


def open_or_refuse(folder: Path) -> None:
    try:
        checkpoint = Checkpoint.open(folder)
        assert all(checkpoint.shape(name) is not None for name in checkpoint.names)
    except CheckpointError as error:
        check_message(str(error), str(folder))


@settings(MANY, max_examples=200)
@given(data=st.data())
def test_indexes_that_lie(sharded, data):
    index = json.loads((sharded / INDEX_FILE).read_text())
    original = json.dumps(index)
    shards = st.one_of(
        VALUES, st.sampled_from(["../x.safetensors", "/etc/passwd", ".safetensors", "a\0.safetensors", "config.json"])
    )
    for _ in range(data.draw(st.integers(1, 2))):
        match data.draw(st.sampled_from(["shard", "tensor", "map", "whole", "text"])):
            case "shard":
                name = data.draw(st.sampled_from(sorted(json.loads(original)["weight_map"])))
                if isinstance(index, dict) and isinstance(index.get("weight_map"), dict):
                    index["weight_map"][name] = data.draw(shards)
            case "tensor":
                if isinstance(index, dict) and isinstance(index.get("weight_map"), dict):
                    index["weight_map"][data.draw(st.text(max_size=8))] = data.draw(shards)
            case "map":
                if isinstance(index, dict):
                    index["weight_map"] = data.draw(VALUES)
            case "whole":
                index = data.draw(VALUES)
            case "text":
                pass
    text = json.dumps(index).encode("utf-8", "surrogatepass")
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(text)))
        text = text[:cut] + data.draw(st.binary(max_size=3)) + text[cut + 1 :]
    (sharded / INDEX_FILE).write_bytes(text)
    try:
        open_or_refuse(sharded)
    finally:
        (sharded / INDEX_FILE).write_text(original)


@settings(MANY, max_examples=300)
@given(seed=st.integers(0, 2**32))
def test_configs_that_are_damaged(sharded, seed):
    original = (sharded / "config.json").read_bytes()
    (sharded / "config.json").write_bytes(damaged(json.dumps(tiny_llama_config(num_layers=1)).encode(), seed))
    try:
        open_or_refuse(sharded)
    finally:
        (sharded / "config.json").write_bytes(original)
