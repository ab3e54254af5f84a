"""The llama.cpp adapter against output that its tools have printed."""

import json
import stat
import sys
import time
from pathlib import Path

import pytest

from flyweight.bench.peers import Setting
from flyweight.bench.peers.llama_cpp import LlamaCpp, bench_command, bench_facts, bench_figures
from flyweight.bench.peers.llama_server import request_body, token_times
from flyweight.bench.peers.processes import PeerError
from flyweight.bench.tasks import OneStream, Prompts

TASK = OneStream(name="depth", depth=4096, prefill=512, decode=64)
# Two records of llama-bench -o json (build 9000 of its format), cut to what is read and a few keys beside it.
RECORDS = [
    {
        "build_commit": "abc1234",
        "build_number": 9000,
        "model_type": "llama 1B Q4_0",
        "n_threads": 2,
        "n_batch": 2048,
        "n_ubatch": 512,
        "type_k": "f16",
        "type_v": "f16",
        "flash_attn": 1,
        "n_prompt": 512,
        "n_gen": 0,
        "n_depth": 4096,
        "avg_ns": 9325000000,
        "avg_ts": 54.9,
        "samples_ts": [54.9],
    },
    {
        "build_commit": "abc1234",
        "build_number": 9000,
        "model_type": "llama 1B Q4_0",
        "n_threads": 2,
        "n_batch": 2048,
        "n_ubatch": 512,
        "type_k": "f16",
        "type_v": "f16",
        "flash_attn": 1,
        "n_prompt": 0,
        "n_gen": 64,
        "n_depth": 4096,
        "avg_ns": 3786000000,
        "avg_ts": 16.9,
        "samples_ts": [16.9],
    },
]
EVENTS = b"""\
data: {"index":0,"content":" a","tokens":[264],"stop":false,"id_slot":0,"tokens_predicted":1}

data: {"index":0,"content":" bc","tokens":[301],"stop":false,"id_slot":0,"tokens_predicted":3}

data: {"index":0,"content":"","tokens":[],"id_slot":0,"stop":true,"tokens_predicted":3,"stop_type":"limit"}

data: {"tokens":[1]}
"""


def setting(folder: Path) -> Setting:
    return Setting(threads=2, context=8192, kv_bytes_per_token=1024, folder=folder)


def test_figures_are_taken_by_test_and_depth() -> None:
    assert bench_figures(RECORDS, TASK) == {"prefill": 54.9, "decode": 16.9}
    assert bench_figures(list(reversed(RECORDS)), TASK) == {"prefill": 54.9, "decode": 16.9}


def test_a_missing_test_is_refused() -> None:
    with pytest.raises(PeerError, match="did not report"):
        bench_figures(RECORDS[:1], TASK)


def test_facts_name_build_and_cache() -> None:
    facts = bench_facts(RECORDS)
    assert facts["version"] == "build 9000 (abc1234)"
    assert "K f16, V f16, flash attention 1" in facts["settings"]


def test_the_command_asks_for_the_task() -> None:
    words = " ".join(bench_command(Path("llama-bench"), Path("m.gguf"), TASK, 3))
    for part in ("-m m.gguf", "-t 3", "-p 512", "-n 64", "-d 4096", "-o json"):
        assert part in words


def test_tokens_of_a_stream_are_counted_not_its_chunks() -> None:
    times = token_times(EVENTS.splitlines(keepends=True), time.perf_counter())
    assert len(times) == 3
    assert times == sorted(times)
    assert times[1] == times[2]


def test_an_error_event_is_told() -> None:
    with pytest.raises(PeerError, match="out of slots"):
        token_times([b'data: {"error": {"message": "out of slots"}}\n'], 0.0)


def test_a_request_fixes_its_length_and_reuses_nothing() -> None:
    body = request_body([1, 2, 3], 7)
    assert (body["n_predict"], body["ignore_eos"], body["cache_prompt"], body["stream"]) == (7, True, False, True)


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_session_runs_the_program_and_reads_its_memory(tmp_path: Path) -> None:
    lines = ["import time", "data = b'x' * 50_000_000", "time.sleep(0.3)", f"print({json.dumps(RECORDS)!r})"]
    bench = program(tmp_path / "llama-bench", "\n".join(lines))
    session = LlamaCpp(bench, tmp_path / "m.gguf").open(TASK, setting(tmp_path))
    assert session.measure(Prompts(32000)) == {"prefill": 54.9, "decode": 16.9}
    assert session.facts["version"] == "build 9000 (abc1234)"
    assert 50e6 < session.close() < 100e6


def test_a_failing_program_is_named(tmp_path: Path) -> None:
    bench = program(tmp_path / "llama-bench", "raise SystemExit(3)\n")
    session = LlamaCpp(bench, tmp_path / "m.gguf").open(TASK, setting(tmp_path))
    with pytest.raises(PeerError, match="ended with 3"):
        session.measure(Prompts(32000))
