"""Whole jobs on tiny random models: what is written, and that it is the same after any interruption."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flyweight
from flyweight import kernels
from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.weights import Weights
from flyweight.compression import CompressOptions, compress, plan_compression
from flyweight.compression import driver as driver_module
from flyweight.compression.block import BlockRun
from flyweight.compression.methods.base import METHODS
from flyweight.errors import CheckpointError, DataError, ResourceError, UnsupportedModelError, UsageError
from flyweight.formats.int_group import IntGroup
from flyweight.models import read_spec
from tests.support.checkpoints import (
    random_llama_tensors,
    tiny_llama_config,
    write_checkpoint,
    write_tiny_llama,
    write_word_tokenizer,
)

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_layers": 3, "dtype": "bfloat16"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    write_tiny_llama(folder, num_shards=2, **SIZES)
    write_word_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "ids.npy"
    np.save(path, np.random.default_rng(0).integers(3, 128, (8, 32)))
    return CompressOptions(calibration=path, sequences=8, sequence_length=32, group_size=32)


@pytest.fixture(scope="module")
def uninterrupted(model, options, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    compress(model, out, "gptq-int4", options)
    return out


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the reports, which tell times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("report.")}


def open_weights(folder: Path) -> Weights:
    checkpoint = Checkpoint.open(folder)
    return Weights.open(checkpoint, read_spec(checkpoint.config))


class CrashError(Exception):
    """Stands for a kill."""


def test_the_output_is_a_whole_checkpoint(model, uninterrupted):
    names = set(content(uninterrupted))
    assert names >= {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"}
    assert not [name for name in names if "journal" in name or "streams" in name or "scratch" in name]
    assert not list(uninterrupted.parent.glob("*.partial"))
    before, after = open_weights(model), open_weights(uninterrupted)
    spec = after.spec
    for linear in spec.linears:
        stored = after.linear(linear)
        assert stored.format == IntGroup(bits=4, group_size=32, scale_dtype="bfloat16")
        original = before.linear(linear).decode()
        assert np.linalg.norm(stored.decode() - original) < 0.4 * np.linalg.norm(original), linear.name
    for norm in spec.blocks[1].norms:
        np.testing.assert_array_equal(after.norm(norm), before.norm(norm))
    np.testing.assert_array_equal(after.embedding(spec.embedding), before.embedding(spec.embedding))


def test_the_report_tells_every_layer(model, options, tmp_path):
    report = compress(model, tmp_path / "out", "gptq-int4", options)
    spec = open_weights(model).spec
    assert [layer.name for layer in report.layers] == [linear.name for linear in spec.linears]
    assert report.bits_per_weight == pytest.approx(4.5)
    assert report.compressed_bytes < 0.6 * report.original_bytes
    for layer in report.layers:
        assert layer.method == "gptq"
        assert layer.tokens == 256
        assert 0.01 < layer.error < 0.3
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [layer["name"] for layer in saved["layers"]] == [linear.name for linear in spec.linears]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "model.layers.2.mlp.down_proj" in page


def test_gptq_loses_less_than_rounding(model, options, uninterrupted, tmp_path):
    """On the calibration tokens themselves, logits against the original's: the whole path has to fit together."""
    compress(model, tmp_path / "rtn", "int4", CompressOptions(group_size=32))
    tokens = np.load(options.calibration)
    losses = {}
    original = logits(model, tokens)
    for name, folder in (("gptq", uninterrupted), ("rtn", tmp_path / "rtn")):
        losses[name] = float(((logits(folder, tokens) - original) ** 2).mean())
    assert losses["gptq"] < 0.6 * losses["rtn"]


def logits(folder, tokens):
    from flyweight.runtime import decoder
    from flyweight.runtime.kv_cache import KVCache
    from flyweight.runtime.native_ops import NativeOps, PreparedWeights
    from flyweight.runtime.sequences import CachedSequence, SequencePlanner

    weights = open_weights(folder)
    prepared = PreparedWeights.prepare(weights.spec, weights, "float32")
    cache = KVCache(weights.spec.blocks, num_blocks=2 * len(tokens))
    batch = SequencePlanner.of(cache).plan(
        [CachedSequence() for _ in tokens], [row.tolist() for row in tokens], all_logits=True
    )
    return decoder.run_model(weights.spec, NativeOps(prepared, cache), batch)


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(
    model, options, uninterrupted, tmp_path, monkeypatch, finished
):
    run, calls = BlockRun.run, []

    def crash_after(self):
        calls.append(self)
        if len(calls) > finished:
            raise CrashError
        return run(self)

    monkeypatch.setattr(BlockRun, "run", crash_after)
    with pytest.raises(CrashError):
        compress(model, tmp_path / "out", "gptq-int4", options)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(BlockRun, "run", lambda self: (calls.append(self), run(self))[1])
    calls.clear()
    compress(model, tmp_path / "out", "gptq-int4", options)
    assert len(calls) == 3 - finished, "finished blocks are not run again"
    assert content(tmp_path / "out") == content(uninterrupted)


@pytest.mark.parametrize("moment", ["write_shard", "finish"])
def test_a_kill_while_writing_loses_nothing_but_the_block(model, options, uninterrupted, tmp_path, monkeypatch, moment):
    original = getattr(driver_module.CheckpointWriter, moment)

    def crash(self, *arguments, **keywords):
        original(self, *arguments, **keywords)
        raise CrashError

    monkeypatch.setattr(driver_module.CheckpointWriter, moment, crash)
    with pytest.raises(CrashError):
        compress(model, tmp_path / "out", "gptq-int4", options)
    monkeypatch.undo()
    compress(model, tmp_path / "out", "gptq-int4", options)
    assert content(tmp_path / "out") == content(uninterrupted)


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from flyweight.compression import CompressOptions, compress
from flyweight.compression.journal import Journal
add = Journal.add
def die(self, entry):
    add(self, entry)
    if len(self.entries) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.add = die
compress(sys.argv[1], sys.argv[2], "gptq-int4",
         CompressOptions(calibration=Path(sys.argv[3]), sequences=8, sequence_length=32, group_size=32))
"""


def test_a_real_kill(model, options, uninterrupted, tmp_path):
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(Path(flyweight.__file__).parents[1])}
    command = [sys.executable, "-c", KILLED_RUN, str(model), str(out), str(options.calibration)]
    killed = subprocess.run(command, env=environment, check=False, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / "out.partial" / "journal.jsonl").is_file()
    compress(model, out, "gptq-int4", options)
    assert content(out) == content(uninterrupted)


def test_spilled_activations_give_the_same_bytes(model, options, uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr("flyweight.compression.memory.SPILLS", (frozenset({"inner", "stream"}),))
    compress(model, tmp_path / "out", "gptq-int4", options)
    assert content(tmp_path / "out") == content(uninterrupted)


def test_another_job_in_the_same_place_is_refused(model, options, tmp_path, monkeypatch):
    monkeypatch.setattr(driver_module.CheckpointWriter, "finish", lambda *a, **k: (_ for _ in ()).throw(CrashError()))
    with pytest.raises(CrashError):
        compress(model, tmp_path / "out", "gptq-int4", options)
    monkeypatch.undo()
    with pytest.raises(UsageError) as caught:
        compress(model, tmp_path / "out", "int8")
    assert str(caught.value) == (
        f"{tmp_path / 'out.partial'} holds the unfinished work of another job (another recipe, calibration, compute); "
        "give --restart to throw that away, or choose another output folder"
    )
    compress(model, tmp_path / "out", "int8", CompressOptions(restart=True))
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.skipif("avx2" not in kernels.available_isas(), reason="this CPU has one instruction set only")
def test_another_instruction_set_does_not_go_on(model, options, tmp_path, monkeypatch):
    monkeypatch.setattr(driver_module.CheckpointWriter, "finish", lambda *a, **k: (_ for _ in ()).throw(CrashError()))
    with pytest.raises(CrashError), kernels.use_isa("avx2"):
        compress(model, tmp_path / "out", "gptq-int4", options)
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"another job \(another compute\)"), kernels.use_isa("generic"):
        compress(model, tmp_path / "out", "gptq-int4", options)


@pytest.mark.skipif("amx" not in kernels.available_isas(), reason="this CPU has no AMX, or it is not allowed")
def test_a_bfloat16_model_calibrates_in_bfloat16_where_that_is_faster(model, options, uninterrupted, tmp_path):
    assert json.loads((uninterrupted / "report.json").read_text())["compute"] == "bfloat16"
    with kernels.use_isa("avx512"):
        assert compress(model, tmp_path / "out", "gptq-int4", options).compute == "float32"


def test_restart_does_not_delete_what_no_job_made(model, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="was not made by a compression job; remove it yourself"):
        compress(model, tmp_path / "out", "int8", CompressOptions(restart=True))
    assert (tmp_path / "out.partial" / "thesis.txt").read_text() == "mine"


def test_a_changed_shard_is_noticed(model, options, tmp_path, monkeypatch):
    monkeypatch.setattr(driver_module.CheckpointWriter, "finish", lambda *a, **k: (_ for _ in ()).throw(CrashError()))
    with pytest.raises(CrashError):
        compress(model, tmp_path / "out", "gptq-int4", options)
    monkeypatch.undo()
    shard = next((tmp_path / "out.partial").glob("model-00002-*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"is not what the journal says was written; use --restart"):
        compress(model, tmp_path / "out", "gptq-int4", options)


def test_existing_output_is_refused(model, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="already exists; choose another output folder, or remove it"):
        compress(model, tmp_path / "out", "int8")


def test_quantized_input_is_refused(uninterrupted, tmp_path):
    with pytest.raises(CheckpointError, match="is already quantized; compress the original checkpoint instead"):
        compress(uninterrupted, tmp_path / "out", "int8")


def test_calibration_must_be_given(model, tmp_path):
    with pytest.raises(DataError, match="recipe 'gptq-int4' needs calibration text: give --calibration FILE"):
        compress(model, tmp_path / "out", "gptq-int4", CompressOptions(group_size=32))


def test_sequences_longer_than_the_context(model, options, tmp_path):
    longer = CompressOptions(calibration=options.calibration, sequence_length=500, group_size=32)
    with pytest.raises(DataError, match="--sequence-length 500 is longer than the model's context of 128 tokens"):
        compress(model, tmp_path / "out", "gptq-int4", longer)


def test_memory_that_cannot_suffice_is_refused_with_the_numbers(model, options, tmp_path):
    tight = CompressOptions(
        calibration=options.calibration, sequences=8, sequence_length=32, group_size=32, memory="20MB"
    )
    with pytest.raises(ResourceError) as caught:
        compress(model, tmp_path / "out", "gptq-int4", tight)
    message = str(caught.value)
    assert "the job needs" in message
    assert "more than --memory 20.0 MB; most of it is" in message
    assert "raise --memory, give fewer or shorter calibration sequences" in message
    assert not (tmp_path / "out.partial").exists()


def test_a_block_that_needs_more_than_predicted_stops_the_job(model, options, tmp_path, monkeypatch):
    peaks = iter([10 << 20, 900 << 20])
    monkeypatch.setattr(driver_module, "peak_resident_bytes", lambda: next(peaks))
    monkeypatch.setattr("flyweight.compression.memory.resident_bytes", lambda: 10 << 20)
    ceiling = CompressOptions(
        calibration=options.calibration, sequences=8, sequence_length=32, group_size=32, memory="800MB"
    )
    with pytest.raises(ResourceError) as caught:
        compress(model, tmp_path / "out", "gptq-int4", ceiling)
    assert "running model.layers.0 took 944 MB of memory, more than --memory 800 MB" in str(caught.value)
    monkeypatch.undo()
    compress(model, tmp_path / "out", "gptq-int4", options)


def test_a_disk_that_is_too_small_is_refused(model, options, tmp_path, monkeypatch):
    monkeypatch.setattr("flyweight.checkpoint.writer.free_bytes", lambda folder: 1000)
    with pytest.raises(ResourceError, match=r"out.partial needs \d+ bytes, but 1000 are free on its disk"):
        compress(model, tmp_path / "out", "gptq-int4", options)


def test_weights_that_are_not_finite_are_named(tmp_path):
    config = tiny_llama_config(**SIZES)
    tensors = random_llama_tensors(config)
    tensors["model.layers.1.mlp.up_proj.weight"][5, 7] = np.nan
    write_checkpoint(tmp_path / "model", config, tensors)
    with pytest.raises(CheckpointError, match=r"tensor model.layers.1.mlp.up_proj.weight holds nan at index \[5, 7\]"):
        compress(tmp_path / "model", tmp_path / "out", "int8")


def test_an_unknown_architecture_takes_the_data_free_path_and_says_so(tmp_path, options):
    config = tiny_llama_config(**SIZES)
    write_checkpoint(tmp_path / "model", {**config, "model_type": "lama"}, random_llama_tensors(config))
    report = compress(tmp_path / "model", tmp_path / "out", "int4", CompressOptions(group_size=32))
    assert "unknown model_type 'lama'" in report.warnings[0]
    assert "without knowing the model" in report.warnings[0]
    assert len(report.layers) == 21
    known = tmp_path / "known"
    write_checkpoint(known, config, random_llama_tensors(config))
    compress(known, tmp_path / "known-out", "int4", CompressOptions(group_size=32))
    shards = {p.name: p.read_bytes() for p in (tmp_path / "known-out").glob("*.safetensors")}
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").glob("*.safetensors")} == shards
    with pytest.raises(UnsupportedModelError, match=r"recipe 'gptq-int4' has to run the model. .*: int4, int8, w8a8"):
        compress(tmp_path / "model", tmp_path / "out2", "gptq-int4", options)


def test_with_few_tokens_the_original_model_is_not_run_beside(model, options, tmp_path, monkeypatch):
    def never(*arguments):
        raise AssertionError("the original block was run")

    monkeypatch.setattr("flyweight.compression.original.run_attention", never)
    few = CompressOptions(calibration=options.calibration, sequences=5, sequence_length=32, group_size=32)
    report = compress(model, tmp_path / "out", "gptq-int4", few)
    assert "160 calibration tokens are few for layers of 96 inputs" in report.warnings[0]
    with pytest.raises(AssertionError, match="the original block was run"):
        compress(model, tmp_path / "out2", "gptq-int4", options)


def test_an_untied_head_can_be_compressed(tmp_path, options):
    write_tiny_llama(tmp_path / "model", tied=False, **SIZES)
    recipe = tmp_path / "head.yaml"
    recipe.write_text(
        "rules:\n"
        "  - {match: lm_head, method: gptq, format: {bits: 8, granularity: channel}}\n"
        "  - {match: '*.0.*', skip: true}\n"
        "  - {match: '*.o_proj', method: rtn, format: {bits: 8, granularity: channel}, activations: int8}\n"
        "  - {match: '*', method: gptq, format: {bits: 4, group_size: 16, symmetric: false}}\n"
    )
    chosen = CompressOptions(calibration=options.calibration, sequences=8, sequence_length=32)
    report = compress(tmp_path / "model", tmp_path / "out", recipe, chosen)
    by_name = {layer.name: layer for layer in report.layers}
    assert by_name["lm_head"].format == "int8 channel"
    assert by_name["lm_head"].tokens == 256
    assert by_name["model.layers.0.mlp.up_proj"].format == "bfloat16"
    after = open_weights(tmp_path / "out")
    assert after.head(after.spec).format.bits == 8
    output = after.spec.blocks[1].attention.output.linears[0]
    assert after.activations(output) == "int8"
    assert after.linear(after.spec.blocks[2].mlp.down.linears[0]).format.symmetric is False
    original = open_weights(tmp_path / "model")
    kept = after.spec.blocks[0].attention.qkv.linears[0]
    np.testing.assert_array_equal(after.linear(kept).decode(), original.linear(kept).decode())


def test_a_plan_runs_one_block_and_writes_nothing(model, options, tmp_path):
    plan = plan_compression(model, tmp_path / "out", "gptq-int4", options)
    assert list(tmp_path.iterdir()) == []
    assert plan.layers == {"int4 g32": 21}
    assert plan.seconds > 0
    assert plan.disk_bytes > 0
    assert plan.measured_memory_bytes > 0
    assert plan.largest_item


def test_every_method_is_registered_under_its_name():
    assert {name: method.name for name, method in METHODS.items()} == {"gptq": "gptq", "rtn": "rtn"}
