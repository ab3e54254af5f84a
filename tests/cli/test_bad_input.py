"""Whatever is wrong with the input, the command line says so in one line, exits with 2, and leaves nothing behind."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import (
    encode_safetensors,
    random_llama_tensors,
    safetensors_bytes,
    tiny_llama_config,
    write_checkpoint,
    write_tiny_llama,
    write_word_tokenizer,
)

from flyweight.cli import main

DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "model"
    write_tiny_llama(folder, num_shards=2)
    write_word_tokenizer(folder)
    return folder


@pytest.fixture
def model(pristine, tmp_path) -> Path:
    """A copy of a good checkpoint in two shards, for the test to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command that must be refused; returns its one line."""

    def run(*arguments: object) -> str:
        before = sorted(path.name for path in tmp_path.iterdir())
        assert main([str(argument) for argument in arguments]) == 2
        printed = capsys.readouterr()
        lines = printed.err.strip().splitlines()
        assert len(lines) == 1, printed.err
        assert lines[0].startswith("flyweight: ")
        assert sorted(path.name for path in tmp_path.iterdir()) == before, "something was left behind"
        return lines[0]

    return run


def compress(model: Path, *more: object) -> tuple[object, ...]:
    return ("compress", model, model.parent / "out", "--recipe", "int8", *more)


def rewrite(model: Path, change) -> None:
    """Write the checkpoint anew in one file after ``change(config, tensors)``."""
    config = tiny_llama_config()
    tensors = random_llama_tensors(config)
    change(config, tensors)
    for shard in model.glob("*.safetensors*"):
        shard.unlink()
    write_checkpoint(model, config, tensors)


def shard(model: Path, number: int = 1) -> Path:
    return model / f"model-{number:05}-of-00002.safetensors"


def test_the_pristine_model_is_accepted(model, capsys):
    assert main([str(word) for word in compress(model)]) == 0
    assert (model.parent / "out" / "config.json").exists()


def test_a_folder_without_config(model, refused):
    (model / "config.json").unlink()
    assert "config.json" in refused(*compress(model))


def test_not_a_folder_and_not_a_model_of_the_hub(tmp_path, refused):
    assert "no/such-model" in refused("compress", "no/such-model", tmp_path / "out", "--recipe", "int8")


def test_a_missing_shard(model, refused):
    shard(model, 2).unlink()
    assert "model-00002-of-00002.safetensors" in refused(*compress(model))


def test_a_truncated_shard(model, refused):
    data = shard(model).read_bytes()
    shard(model).write_bytes(data[:-100])
    line = refused(*compress(model))
    assert "model-00001-of-00002.safetensors" in line
    assert "download" in line, "the remedy is missing"


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, "hole|begin|start|offset"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}, "bytes"),
        (
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
            },
            "overlap",
        ),
        ({"a": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}, "F31"),
    ],
    ids=["offsets", "sizes", "overlap", "dtype"],
)
def test_a_header_that_lies(model, refused, header, word):
    shard(model).write_bytes(safetensors_bytes(json.dumps(header).encode(), b"\0" * 8))
    line = refused(*compress(model))
    assert "model-00001-of-00002.safetensors" in line
    assert re.search(word, line), line


def test_a_missing_tensor(model, refused):
    rewrite(model, lambda config, tensors: tensors.pop(DOWN))
    assert DOWN in refused(*compress(model))


def test_a_wrongly_shaped_tensor(model, refused):
    rewrite(model, lambda config, tensors: tensors.update({DOWN: np.zeros((64, 95), np.float32)}))
    line = refused(*compress(model))
    assert DOWN in line
    assert "95" in line
    assert "96" in line


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(model, refused, value):
    def spoil(config, tensors):
        tensors[DOWN][3, 5] = value

    rewrite(model, spoil)
    assert DOWN in refused(*compress(model))


def test_an_unknown_architecture_with_a_recipe_that_runs_the_model(model, refused, tmp_path):
    rewrite(model, lambda config, tensors: config.update(model_type="lama"))
    text = tmp_path / "text.txt"
    text.write_text("w3 w4 w5 " * 2000)
    line = refused("compress", model, tmp_path / "out", "--recipe", "gptq-int4", "--calibration", text)
    assert "'lama'" in line
    assert "llama" in line
    assert "int8" in line, "the recipes that would do are missing"
    assert "'lama'" in refused("generate", model, "w3")


def test_an_unknown_rope_type(model, refused):
    rewrite(model, lambda config, tensors: config.update(rope_scaling={"rope_type": "spiral", "factor": 2.0}))
    line = refused("generate", model, "w3")
    assert "spiral" in line
    assert "yarn" in line


def test_a_group_size_that_does_not_divide(model, refused):
    line = refused("compress", model, model.parent / "out", "--recipe", "int4", "--group-size", 128)
    assert "group_size=128 does not divide in_features=64 of model.layers.0.self_attn.q_proj" in line
    assert "choose 16, 32 or 64" in line


def test_a_rule_that_matches_nothing(model, refused):
    recipe = model / "recipe.yaml"
    recipe.write_text(
        "rules:\n"
        '  - match: "*.dwn_proj"\n'
        "    method: rtn\n"
        "    format: {bits: 8, granularity: channel}\n"
        '  - match: "*"\n'
        "    method: rtn\n"
        "    format: {bits: 4, group_size: 32}\n"
    )
    line = refused("compress", model, model.parent / "out", "--recipe", recipe)
    assert "*.dwn_proj" in line
    assert "down_proj" in line


def test_an_unknown_recipe(model, refused):
    line = refused("compress", model, model.parent / "out", "--recipe", "gptq-int5")
    assert "gptq-int5" in line
    assert "gptq-int4" in line


@pytest.mark.parametrize(("text", "word"), [("", "empty|no text|holds no"), ("w3 w4", "token")], ids=["empty", "short"])
def test_calibration_text(model, refused, tmp_path, text, word):
    path = tmp_path / "text.txt"
    path.write_text(text)
    line = refused(
        "compress", model, tmp_path / "out", "--recipe", "gptq-int4", "--group-size", 32, "--calibration", path
    )
    assert "text.txt" in line
    assert re.search(word, line), line


def test_an_existing_output_folder(model, refused, tmp_path):
    (tmp_path / "out").mkdir()
    line = refused(*compress(model))
    assert "out already exists" in line


def test_a_full_disk(model, refused, monkeypatch):
    real = os.statvfs

    def nearly_full(path):
        status = list(real(path))
        status[3] = status[4] = 2  # blocks that are free, and free for this user
        return os.statvfs_result(status)

    monkeypatch.setattr(os, "statvfs", nearly_full)
    line = refused(*compress(model))
    assert "free" in line
    assert "needs" in line or "needed" in line, line


def test_a_prompt_longer_than_the_context(model, refused):
    line = refused("generate", model, "w3 " * 200)
    assert "200" in line
    assert "128" in line


def test_a_memory_ceiling_that_cannot_be_kept(model, refused):
    line = refused(*compress(model, "--memory", "1MB"))
    assert "more than --memory 1.00 MB" in line


def test_only_pickled_weights(model, refused):
    for path in model.glob("*.safetensors*"):
        path.unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    line = refused(*compress(model))
    assert "pytorch_model.bin" in line
    assert "safetensors" in line


def test_a_shard_that_is_not_safetensors(model, refused):
    shard(model).write_bytes(b"PK\x03\x04 this is a zip archive, not a shard" + bytes(100))
    assert "model-00001-of-00002.safetensors" in refused(*compress(model))


def test_encoding_helpers_write_what_the_reader_accepts(tmp_path):
    """The damage above is the only damage: the same writer gives files that are read."""
    from flyweight.checkpoint.safetensors_file import SafetensorsFile

    path = tmp_path / "a.safetensors"
    path.write_bytes(encode_safetensors({"a": np.arange(4, dtype=np.float32)}))
    np.testing.assert_array_equal(SafetensorsFile(path).read("a"), np.arange(4, dtype=np.float32))


def test_config_keys_that_nobody_reads_are_named(model, capsys, caplog):
    rewrite(model, lambda config, tensors: config.update(attention_twist=3))
    assert main([str(word) for word in compress(model, "--json")]) == 0
    assert "attention_twist" in json.loads(capsys.readouterr().out)["warnings"][0]
    assert main(["generate", str(model.parent / "out"), "w3", "--max-tokens", "1"]) == 0
    assert "attention_twist" in caplog.text
