"""Opening checkpoints: folders, shards, hub ids; and what is refused, by its message."""

import hashlib
import json
import os
import re

import numpy as np
import pytest
from support.checkpoints import encode_safetensors, tiny_llama_config, write_checkpoint, write_tiny_llama

from flyweight.checkpoint import huggingface
from flyweight.checkpoint.cache import cache_folder, file_digest
from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.safetensors_header import shown
from flyweight.errors import CheckpointError

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLYWEIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path):
    write_tiny_llama(tmp_path / "model", num_layers=1)
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path):
    write_tiny_llama(tmp_path / "sharded", num_layers=1, num_shards=2)
    return tmp_path / "sharded"


def refusal(model) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(model)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("num_shards", [1, 2, 5])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_tensor_is_found(tmp_path, num_shards, dtype):
    tensors = write_tiny_llama(tmp_path / "m", num_shards=num_shards, dtype=dtype)
    checkpoint = Checkpoint.open(str(tmp_path / "m"))
    assert checkpoint.names == tuple(sorted(tensors))
    assert len(checkpoint.shards) == num_shards
    assert checkpoint.weight_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert checkpoint.config["model_type"] == "llama"
    assert checkpoint.folder == tmp_path / "m"
    for name, tensor in tensors.items():
        assert name in checkpoint
        assert (checkpoint.shape(name), checkpoint.dtype(name)) == (tensor.shape, tensor.dtype)
        assert checkpoint.tensor_bytes(name) == tensor.nbytes
        assert np.array_equal(checkpoint.tensor(name), tensor)
        assert np.array_equal(checkpoint.read(name), tensor)
        assert np.array_equal(checkpoint.read_rows(name, 1, 3), tensor[1:3])
        assert np.array_equal(np.concatenate(list(checkpoint.chunks(name))), tensor.reshape(-1))


def test_a_single_file_wins_over_an_index(sharded):
    (sharded / "model.safetensors").write_bytes(encode_safetensors({"only": np.zeros(1, np.float32)}))
    assert Checkpoint.open(sharded).names == ("only",)


# --- refusals -----------------------------------------------------------------------------------------------------


def test_no_such_folder(tmp_path):
    assert refusal(tmp_path / "none").endswith(
        "none' is neither an existing folder nor a hub id of the form organisation/name; check the path"
    )
    assert "'./none' is neither an existing folder nor a hub id" in refusal("./none")
    assert "'a/b/c' is neither an existing folder nor a hub id" in refusal("a/b/c")


def test_a_file_in_place_of_a_folder(model):
    assert refusal(model / "config.json").endswith(
        "config.json is a file; give the folder that holds config.json and the safetensors files"
    )


def test_a_revision_of_a_local_folder(model):
    with pytest.raises(
        CheckpointError, match=r"revision='main' was given, but .*model is a local folder; leave it out"
    ):
        Checkpoint.open(model, revision="main")


def test_a_folder_without_config(model):
    (model / "config.json").unlink()
    assert refusal(model) == (
        f"{model}/config.json is missing; a folder with config.json and safetensors files is needed"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "config.json is not valid JSON (Expecting property name"),
        (b"\xff\xfe", "config.json is not valid JSON ('utf-8' codec can't decode byte 0xff"),
        (b"[1]", "config.json holds a JSON list where an object is needed"),
        (b"[" * 200_000, "config.json is not valid JSON (maximum recursion depth"),
    ],
)
def test_a_damaged_config(model, content, message):
    (model / "config.json").write_bytes(content)
    assert message in refusal(model)


def test_an_enormous_config(model, monkeypatch):
    monkeypatch.setattr(huggingface, "MAX_CONFIG_BYTES", 10)
    assert re.search(r"config.json has \d+ bytes, too many for a JSON file", refusal(model))


def test_a_config_that_is_a_folder(model):
    (model / "config.json").unlink()
    (model / "config.json").mkdir()
    assert "config.json cannot be read: Is a directory" in refusal(model)


def test_a_folder_without_weights(model):
    (model / "model.safetensors").unlink()
    assert refusal(model) == (
        f"{model} holds no weights: neither model.safetensors nor {INDEX}; download the model again"
    )


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_never_opened(model, name):
    (model / "model.safetensors").rename(model / name)
    message = refusal(model)
    assert f"holds only pickled weights ({name}), which can run code when they are read" in message
    assert "convert them to safetensors" in message


def test_gguf_is_named(model):
    (model / "model.safetensors").rename(model / "model.gguf")
    assert "holds model.gguf, which is not read; give a checkpoint with model.safetensors" in refusal(model)


def test_shards_without_an_index(sharded):
    (sharded / INDEX).unlink()
    assert f"holds {FIRST} but neither model.safetensors nor {INDEX}; rename a single file" in refusal(sharded)


def test_a_missing_shard(sharded):
    (sharded / SECOND).unlink()
    assert refusal(sharded) == (
        f"{sharded} lacks the shard {SECOND} that {INDEX} names (1 missing in all); download it again"
    )


def test_a_truncated_shard(sharded):
    content = (sharded / SECOND).read_bytes()
    (sharded / SECOND).write_bytes(content[:-100])
    assert f"{SECOND} is truncated: 100 of {len(content)} bytes are missing" in refusal(sharded)


def test_a_tensor_that_its_shard_lacks(sharded):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = FIRST if index["weight_map"]["model.norm.weight"] == SECOND else SECOND
    (sharded / INDEX).write_text(json.dumps(index))
    assert re.search(
        r"of-00002.safetensors lacks tensor 'model.norm.weight', which model.safetensors.index.json places there; "
        "download the shard and the index again",
        refusal(sharded),
    )


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "/tmp/x.safetensors", "a\\b.safetensors", "x.bin", 7, "", "x" * 300 + ".safetensors"],
)
def test_a_shard_outside_of_the_folder(sharded, shard):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = shard
    (sharded / INDEX).write_text(json.dumps(index))
    assert f"{INDEX} places tensor 'model.norm.weight' in {shown(shard)}, which is not the name" in refusal(sharded)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": [1]}])
def test_an_index_without_a_map(sharded, index):
    (sharded / INDEX).write_text(json.dumps(index))
    assert "has no weight_map that names a shard for each tensor; download the index again" in refusal(sharded)


def test_an_unknown_tensor(model):
    with pytest.raises(CheckpointError, match=r"holds no tensor 'model.norm.bias'; did you mean 'model.norm.weight'\?"):
        Checkpoint.open(model).read("model.norm.bias")


# --- the hub ------------------------------------------------------------------------------------------------------


def make_hub_cache(tmp_path, monkeypatch, files):
    """A cache as huggingface_hub leaves it, with one snapshot of organisation/name."""
    from huggingface_hub import constants

    repository = tmp_path / "hub" / "models--organisation--name"
    commit = "a" * 40
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for path in files:
        (snapshot / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_a_cached_model_opens_offline(tmp_path, monkeypatch, model):
    snapshot = make_hub_cache(tmp_path, monkeypatch, list(model.iterdir()))
    checkpoint = Checkpoint.open("organisation/name")
    assert checkpoint.folder.resolve() == snapshot.resolve()
    assert checkpoint.names == Checkpoint.open(model).names


def test_a_model_that_is_not_cached(tmp_path, monkeypatch):
    make_hub_cache(tmp_path, monkeypatch, [])
    message = refusal("organisation/other")
    assert message.startswith("'organisation/other' is no local folder, and the hub gave no such model (")
    assert message.endswith(
        "; check the name, the network and HF_HUB_OFFLINE, or download it on a machine with access and give its folder"
    )


def test_only_what_is_needed_is_fetched(tmp_path, monkeypatch, model):
    import huggingface_hub

    asked = {}

    def fetch(repository, **options):
        asked.update(options, repository=repository)
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    Checkpoint.open("organisation/name", revision="v2")
    assert (asked["repository"], asked["revision"]) == ("organisation/name", "v2")
    from huggingface_hub.utils import filter_repo_objects

    offered = ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "tokenizer.model", "LICENSE"]
    offered += [
        "original/consolidated.00.pth",
        "consolidated.safetensors",
        "onnx/model.safetensors",
        "model.py",
        "a.gguf",
    ]
    kept = filter_repo_objects(
        offered, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "LICENSE"]


# --- the content hash ---------------------------------------------------------------------------------------------


def test_the_hash_tells_contents_apart(tmp_path):
    write_tiny_llama(tmp_path / "a", num_layers=1, num_shards=2)
    write_tiny_llama(tmp_path / "same", num_layers=1, num_shards=2)
    write_tiny_llama(tmp_path / "other", num_layers=1, num_shards=2, seed=1)
    write_checkpoint(tmp_path / "config", tiny_llama_config(num_layers=1) | {"rope_theta": 1e5}, {"x": np.zeros(1)})
    hashes = {name: Checkpoint.open(tmp_path / name).content_hash() for name in ("a", "same", "other", "config")}
    assert hashes["a"] == hashes["same"]
    assert len(set(hashes.values())) == 3
    assert re.fullmatch("[0-9a-f]{64}", hashes["a"])


def test_a_changed_byte_changes_the_hash(model):
    before = Checkpoint.open(model).content_hash()
    with open(model / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert Checkpoint.open(model).content_hash() != before


def test_digests_are_remembered(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert file_digest(path) == hashlib.sha256(b"abc").hexdigest()
    remembered = list((tmp_path / "cache" / "digests").iterdir())
    assert len(remembered) == 1
    remembered[0].write_text("0" * 64)
    assert file_digest(path) == "0" * 64, "the second call reads what the first remembered"
    remembered[0].write_text("damaged")
    assert file_digest(path) == hashlib.sha256(b"abc").hexdigest()
    before = path.stat()
    path.write_bytes(b"abd!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_digest(path) == hashlib.sha256(b"abd!").hexdigest(), "the size tells, where the time does not"
    path.write_bytes(b"abe!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert file_digest(path) == hashlib.sha256(b"abe!").hexdigest(), "the time tells, where the size does not"


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLYWEIGHT_CACHE", str(tmp_path / "file"))
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_where_the_cache_is(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("FLYWEIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache_folder()) == "/somewhere/flyweight"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(cache_folder()) == "/home/me/.cache/flyweight"


def test_a_shard_that_vanished_before_hashing(model):
    checkpoint = Checkpoint.open(model)
    (model / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors cannot be read: No such file or directory"):
        checkpoint.content_hash()
