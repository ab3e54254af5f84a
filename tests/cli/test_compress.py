"""``flyweight compress``: arguments in, a checkpoint and its report out."""

import importlib
import json

import numpy as np
import pytest

from flyweight.cli import main
from tests.support.checkpoints import write_tiny_llama


@pytest.fixture
def model(tmp_path):
    write_tiny_llama(tmp_path / "model")
    return tmp_path / "model"


def test_table(model, tmp_path, capsys):
    assert main(["compress", str(model), str(tmp_path / "out"), "--recipe", "int8"]) == 0
    shown = capsys.readouterr()
    assert "model.layers.1.mlp.down_proj" in shown.out
    assert "bits per weight, report in" in shown.out
    assert "compress: 14 steps" in shown.err


def test_json(model, tmp_path, capsys):
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 128, (4, 32)))
    arguments = ["--recipe", "gptq-int4", "--group-size", "32", "--sequences", "4", "--sequence-length", "32", "--json"]
    arguments += ["--calibration", str(tmp_path / "ids.npy"), "--memory", "8GB"]
    assert main(["compress", str(model), str(tmp_path / "out"), *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["recipe"] == "gptq-int4"
    assert len(report["layers"]) == 14
    assert report["layers"][0]["method"] == "gptq"


def test_dry_run(model, tmp_path, capsys):
    assert main(["compress", str(model), str(tmp_path / "out"), "--recipe", "int8", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "14 int8 channel" in shown
    assert "memory" in shown
    assert "time" in shown
    assert not (tmp_path / "out").exists()
    assert main(["compress", str(model), str(tmp_path / "out"), "--recipe", "int8", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == {"int8 channel": 14}


def test_interrupted(model, tmp_path, capsys, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("flyweight.cli.compress"), "compress_checkpoint", interrupt)
    assert main(["compress", str(model), str(tmp_path / "out"), "--recipe", "int8"]) == 130
    assert "the same command goes on from the last finished block" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "int9"], "unknown recipe 'int9'"),
        (["--memory", "lots"], "size 'lots' is not understood"),
        (["--sequences", "0"], "sequences=0 must be at least 1"),
        (["--recipe", "int4"], "group_size=128 does not divide in_features=64"),
        (["--recpie", "int8"], "recpie"),
    ],
)
def test_bad_arguments_get_one_line(model, tmp_path, capsys, arguments, message):
    assert main(["compress", str(model), str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
