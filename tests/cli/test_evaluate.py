"""The evaluate, inspect and demo verbs: what is printed, what is written, and the exit codes."""

import json
from pathlib import Path

import pytest

from flyweight.cli import main
from tests.support.checkpoints import write_tiny_llama, write_word_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_tiny_llama(tmp_path / "model", dtype="bfloat16")
    write_word_tokenizer(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n<|endoftext|>\n".join(f"w{n} w{n + 1} w{n + 2} w{n + 3}" for n in range(3, 33)))
    return path


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def evaluate(model: Path, text: Path, *more: object) -> int:
    return run("evaluate", model, "--text", text, "--resamples", 100, *more)


def test_tables_show_protocol_figures_and_intervals(
    model: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(model, text, "--against", model) == 0
    printed = capsys.readouterr().out
    for words in (
        "Protocol",
        "rolling",
        "each document starts with BOS",
        "30, 120,",
        "120 of 120",
        "95 % intervals: bootstrap over 30 documents, 100 resamples, seed 0",
        "KL mean, nats per token",
        "100.0 % [",
        "bfloat16",
    ):
        assert words in printed, words


def test_json_is_all_that_is_printed(model: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(model, text, "--json", "--protocol", "windows", "--window", 16, "--stride", 8) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"]["protocol"]["kind"] == "windows"
    assert found["text"]["protocol"]["stride"] == 8
    assert found["text"]["perplexity"]["token"]["low"] < found["text"]["perplexity"]["token"]["high"]
    assert found["options"]["resamples"] == 100


def test_a_gate_that_says_no_gives_exit_code_1_and_names_the_figure(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate, page = tmp_path / "gate.yaml", tmp_path / "out" / "report.html"
    gate.write_text("max_ppl_ratio: 0.5\nmin_top1: 0.5")
    arguments = ("--against", model, "--gate", gate, "--html", page)
    assert evaluate(model, text, *arguments) == 1
    printed = capsys.readouterr().out
    assert "gate FAILED" in printed
    assert "FAILED max_ppl_ratio: upper end 1 of the interval > 0.5 (value 1)" in printed
    assert "kept   min_top1: lower end" in printed
    written = page.read_text()
    assert "max_ppl_ratio: upper end 1" in written
    assert "<svg" in written
    assert evaluate(model, text, *arguments, "--json") == 1
    gate.write_text("max_ppl_ratio: 1.5")
    assert evaluate(model, text, *arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gate", "nowhere.yaml"), "gate file nowhere.yaml is not a file"),
        (("--golden", "nowhere.jsonl"), "golden file nowhere.jsonl is not a file"),
        (("--window", "9999"), "window=9999 is longer than the context of 128 tokens"),
        (("--protocol", "sideways"), "sideways"),
        (("--cache-limit", "lots"), "size 'lots' is not understood"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    model: Path, text: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(model, text, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_without_anything_to_evaluate_on_there_is_a_remedy(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", model) == 2
    assert "give a text (--text FILE), golden prompts (--golden FILE) or both" in capsys.readouterr().err


def test_inspect_tells_layers_bits_and_totals(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", model, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["formats"] == {"bfloat16": 14}
    assert found["bits_per_weight"] == 16.0
    assert found["weight_bytes"] == 2 * found["num_weights"]
    assert found["kv_values_per_token"] == 2 * 2 * 2 * 16
    (layer,) = [one for one in found["layers"] if one["name"] == "model.layers.1.mlp.down_proj"]
    assert (layer["out_features"], layer["in_features"], layer["stored_bytes"]) == (64, 96, 64 * 96 * 2)
    assert found["attention"] == [
        {
            "blocks": [0, 1],
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 16,
            "window": 0,
            "softcap": 0.0,
            "rope": "default, theta 10000, 16 features",
        }
    ]
    assert run("inspect", model) == 0
    printed = capsys.readouterr().out
    assert "model.layers.1.mlp.down_proj" in printed
    assert run("inspect", model, "--no-layers") == 0
    assert "down_proj" not in capsys.readouterr().out


def test_inspect_reads_no_weights(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("read", "chunks", "content_hash"):
        monkeypatch.setattr(f"flyweight.checkpoint.huggingface.Checkpoint.{name}", lambda *_: pytest.fail("read"))
    assert run("inspect", model) == 0
    assert "llama" in capsys.readouterr().out


def test_inspect_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", tmp_path) == 2
    assert "config.json is missing" in capsys.readouterr().err
