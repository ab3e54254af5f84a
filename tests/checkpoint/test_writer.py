"""Writing a checkpoint folder: whole or absent, the same bytes each time, and room checked before."""

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.checkpoints import write_tiny_llama, write_word_tokenizer

from flyweight.checkpoint import safetensors_file
from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.writer import CheckpointWriter, check_free_disk
from flyweight.errors import CheckpointError, ResourceError

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def source(tmp_path):
    write_tiny_llama(tmp_path / "source", num_layers=1)
    write_word_tokenizer(tmp_path / "source")
    for name in ("generation_config.json", "chat_template.jinja", "LICENSE", "README.md", "model.py", "training.bin"):
        (tmp_path / "source" / name).write_text("{}")
    return Checkpoint.open(tmp_path / "source")


def write_two_shards(source, folder) -> CheckpointWriter:
    writer = CheckpointWriter(folder)
    writer.write_shard(FIRST, {name: source.read(name) for name in source.names[:5]})
    writer.write_shard(SECOND, {name: source.lazy(name) for name in source.names[5:]})
    return writer


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_copy_is_the_same_model(tmp_path, source):
    write_two_shards(source, tmp_path / "out").finish(source.config, copied_from=source)
    copy = Checkpoint.open(tmp_path / "out")
    assert copy.config == source.config
    assert copy.names == source.names
    assert copy.weight_bytes == source.weight_bytes
    assert all(np.array_equal(copy.read(name), source.read(name)) for name in source.names)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == source.weight_bytes
    assert set(load_file(tmp_path / "out" / FIRST)) == set(source.names[:5])


def test_what_goes_with_the_model_is_copied_and_nothing_else(tmp_path, source):
    write_two_shards(source, tmp_path / "out").finish(source.config, copied_from=source)
    copied = {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja", "LICENSE"}
    written = {FIRST, SECOND, "model.safetensors.index.json", "config.json"}
    assert set(contents(tmp_path / "out")) == copied | written
    for name in copied:
        assert (tmp_path / "out" / name).read_bytes() == (source.folder / name).read_bytes()


def test_the_same_bytes_each_time_and_after_a_resume(tmp_path, source):
    write_two_shards(source, tmp_path / "a").finish(source.config, copied_from=source)
    write_two_shards(source, tmp_path / "b").finish(dict(reversed(source.config.items())), copied_from=source)
    interrupted = CheckpointWriter(tmp_path / "c")
    interrupted.write_shard(FIRST, {name: source.lazy(name) for name in reversed(source.names[:5])})
    (tmp_path / "c" / "model-00003-of-00002.safetensors.partial").write_bytes(b"half a shard")
    resumed = CheckpointWriter(tmp_path / "c")
    resumed.adopt_shard(FIRST)
    resumed.write_shard(SECOND, {name: source.read(name) for name in source.names[5:]})
    resumed.finish(source.config, copied_from=source)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_one_file_needs_no_index(tmp_path, source):
    writer = CheckpointWriter(tmp_path / "out")
    size = writer.write_shard("model.safetensors", {name: source.lazy(name) for name in source.names})
    assert size == (tmp_path / "out" / "model.safetensors").stat().st_size
    writer.finish(source.config)
    assert set(contents(tmp_path / "out")) == {"model.safetensors", "config.json"}


def test_a_folder_is_a_checkpoint_only_when_it_is_finished(tmp_path, source, monkeypatch):
    writer = write_two_shards(source, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()
    order = []
    real = safetensors_file.os.replace
    monkeypatch.setattr(safetensors_file.os, "replace", lambda a, b: (order.append(b.name), real(a, b)))
    writer.finish(source.config, copied_from=source)
    assert order[-1] == "config.json"
    assert order[0] == "model.safetensors.index.json"


def test_a_tensor_in_two_shards(tmp_path, source):
    writer = CheckpointWriter(tmp_path)
    writer.write_shard(FIRST, {"x": np.zeros(1)})
    with pytest.raises(CheckpointError, match=rf"tensor 'x' was already written to {FIRST}; it cannot go to {SECOND}"):
        writer.write_shard(SECOND, {"x": np.zeros(1)})
    with pytest.raises(CheckpointError, match=rf"{FIRST} was already written"):
        writer.write_shard(FIRST, {"y": np.zeros(1)})


@pytest.mark.parametrize("name", ["x.bin", "../x.safetensors", "a/x.safetensors"])
def test_a_name_that_is_no_shard(tmp_path, name):
    with pytest.raises(CheckpointError, match=rf"{re.escape(repr(name))} is no name for a shard"):
        CheckpointWriter(tmp_path).write_shard(name, {"x": np.zeros(1)})


def test_a_damaged_shard_is_not_adopted(tmp_path, source):
    writer = write_two_shards(source, tmp_path)
    content = (tmp_path / FIRST).read_bytes()
    (tmp_path / FIRST).write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=r"is truncated: 1 of \d+ bytes are missing"):
        CheckpointWriter(tmp_path).adopt_shard(FIRST)
    del writer


def test_nothing_to_finish(tmp_path):
    with pytest.raises(CheckpointError, match=r"no shard was written, so there is no checkpoint to finish"):
        CheckpointWriter(tmp_path).finish({})


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/out cannot be written: Not a directory; choose another output"):
        CheckpointWriter(tmp_path / "file" / "out")


def test_a_full_disk_while_copying(tmp_path, source, monkeypatch):
    writer = write_two_shards(source, tmp_path / "out")
    real = safetensors_file.os.write

    def write(descriptor, data):
        if bytes(data[:4]) == (source.folder / "tokenizer.json").read_bytes()[:4]:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(safetensors_file.os, "write", write)
    with pytest.raises(ResourceError, match=r"tokenizer.json cannot be written: No space left on device; it needs \d+"):
        writer.finish(source.config, copied_from=source)
    assert not list((tmp_path / "out").glob("*.partial"))
    assert not (tmp_path / "out" / "config.json").exists()


def test_room_is_checked_before(tmp_path):
    check_free_disk(tmp_path / "out", 1)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ResourceError) as caught:
        check_free_disk(tmp_path / "to" / "be" / "made", free * 10)
    assert re.fullmatch(
        rf"{re.escape(str(tmp_path))}/to/be/made needs {free * 10} bytes, but \d+ are free on its disk; make room or "
        "choose another folder",
        str(caught.value),
    )
