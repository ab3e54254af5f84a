"""``flyweight.batch``: order, errors that stay in their line, kill and resume."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flyweight
from flyweight.engine.batch_files import BatchRecord, read_lines
from flyweight.errors import UsageError
from tests.support.checkpoints import write_tiny_llama, write_word_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(path, tied=False)
    write_word_tokenizer(path)
    return path


def request(number: int, **body: Any) -> dict[str, Any]:
    prompt = f"w{number % 50} w{number % 7} w3"
    body = {"model": "m", "prompt": prompt, "max_tokens": 4 + number % 13, "ignore_eos": True} | body
    return {"custom_id": f"id-{number}", "method": "POST", "url": "/v1/completions", "body": body}


def write_lines(path: Path, lines: list[Any]) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def read_results(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(results: list[Any]) -> list[Any]:
    """Results without the times they were made at."""
    for result in results:
        result["response"]["body"].pop("created", None)
    return results


def test_results_come_in_order_and_are_those_of_generate(folder: Path, tmp_path: Path) -> None:
    lines = [request(number) for number in range(40)]
    source = write_lines(tmp_path / "in.jsonl", lines)
    report = flyweight.batch(source, tmp_path / "out.jsonl", model=folder)
    results = read_results(tmp_path / "out.jsonl")
    assert [result["custom_id"] for result in results] == [line["custom_id"] for line in lines]
    model = flyweight.load(folder)
    options = [flyweight.SamplingOptions(max_tokens=line["body"]["max_tokens"], ignore_eos=True) for line in lines]
    expected = model.generate([line["body"]["prompt"] for line in lines], options)
    assert [result["response"]["body"]["choices"][0]["text"] for result in results] == [one.text for one in expected]
    assert (report.lines, report.failed, report.resumed) == (40, 0, 0)
    assert report.completion_tokens == sum(one.usage.completion_tokens for one in expected)
    assert not (tmp_path / "out.jsonl.partial").exists()


def test_a_bad_line_is_reported_and_does_not_end_the_run(folder: Path, tmp_path: Path) -> None:
    lines = [
        request(0),
        "{ half a line",
        request(2, temprature=1),
        "",
        request(3, prompt="w1 " * 5000),
        request(0),
        request(6, prompt=[5, 9999]),
        request(7, logit_bias={"9999": 1}),
        request(8, n=2, prompt=["w1", "w2"], temperature=1.0, seed=4, logprobs=1),
        json.dumps(request(9)) + " " * 5000,
        request(10, stop="w5"),
    ]
    source = write_lines(tmp_path / "in.jsonl", lines)
    options = flyweight.BatchOptions(longest_line=4096)
    report = flyweight.batch(source, tmp_path / "out.jsonl", model=folder, options=options)
    results = read_results(tmp_path / "out.jsonl")
    assert len(results) == report.lines == 10
    messages = [result["error"] and result["error"]["message"] for result in results]
    assert [message is None for message in messages] == [
        True,
        False,
        False,
        False,
        False,
        False,
        False,
        True,
        False,
        True,
    ]
    assert "not JSON" in messages[1]
    assert "'temprature'; did you mean 'temperature'?" in messages[2]
    assert "at most 4096 are read" in messages[3]
    assert "custom_id 'id-0' was used before, in line 1" in messages[4]
    assert "token id 9999 is outside the model's vocabulary" in messages[5]
    assert "logit_bias names token 9999" in messages[6]
    assert "at most 4096 are read" in messages[8]
    assert report.failed == 7
    choices = results[7]["response"]["body"]["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert choices[0]["text"] != choices[1]["text"]
    assert len(choices[0]["logprobs"]["tokens"]) == results[7]["response"]["body"]["usage"]["completion_tokens"] / 4


def test_the_parameters_that_the_server_takes_are_honoured(folder: Path, tmp_path: Path) -> None:
    model = flyweight.load(folder)
    long = [number % 50 + 4 for number in range(5000)]
    plain = model.generate([[5, 6, 7]], flyweight.SamplingOptions(max_tokens=8, ignore_eos=True))[0]
    word = plain.text.split()[0]
    bodies: dict[str, dict[str, Any]] = {
        "allowed": {"prompt": [5, 6, 7], "allowed_token_ids": [9, 11], "max_tokens": 6},
        "forbidden": {
            "prompt": [5, 6, 7],
            "bad_words": [word],
            "max_tokens": 8,
        },
        "shown": {"prompt": [5, 6, 7], "stop_token_ids": [plain.token_ids[0]], "include_stop_str_in_output": True},
        "hidden": {"prompt": [5, 6, 7], "stop_token_ids": [plain.token_ids[0]]},
        "cut": {"prompt": long, "truncate_prompt_tokens": 12, "max_tokens": 5, "prompt_logprobs": 0},
        "short": {"prompt": long[-12:], "max_tokens": 5, "prompt_logprobs": 0},
        "room": {"prompt": long, "truncate_prompt_tokens": -1, "max_tokens": 5},
        "scored": {"prompt": ["w1 w2 w3", "w4 w5"], "n": 2, "temperature": 1.0, "seed": 1, "prompt_logprobs": 2},
        "absent": {"prompt": [5, 6, 7], "allowed_token_ids": [9999]},
    }
    lines = [request(number, **body) | {"custom_id": name} for number, (name, body) in enumerate(bodies.items())]
    source = write_lines(tmp_path / "in.jsonl", lines)
    assert flyweight.batch(source, tmp_path / "out.jsonl", model=folder).failed == 1
    results = {result["custom_id"]: result for result in read_results(tmp_path / "out.jsonl")}
    assert "allowed_token_ids names token 9999" in results.pop("absent")["error"]["message"]
    found = {name: result["response"]["body"] for name, result in results.items()}
    texts = {name: body["choices"][0]["text"] for name, body in found.items()}
    assert set(texts["allowed"].split()) <= {model.token_text(9), model.token_text(11)}
    assert texts["forbidden"].split()[0] != word
    assert (texts["shown"].strip(), texts["hidden"]) == (word, "")
    assert (texts["cut"], found["cut"]["usage"]["prompt_tokens"]) == (texts["short"], 12)
    assert found["cut"]["choices"][0]["prompt_logprobs"] == found["short"]["choices"][0]["prompt_logprobs"]
    assert found["room"]["usage"] == {
        "prompt_tokens": model.context_length - 5,
        "completion_tokens": 5,
        "total_tokens": model.context_length,
    }
    of_prompts = [choice["prompt_logprobs"] for choice in found["scored"]["choices"]]
    assert of_prompts[0] == of_prompts[1] != of_prompts[2] == of_prompts[3]
    assert str(model.encode("w4 w5")[-1]) in of_prompts[2][-1]
    ids = model.encode("w1 w2 w3")
    logits = np.concatenate([rows for _, _, rows in model.score([ids])]).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert len(of_prompts[0]) == len(ids)
    for place, entry in enumerate(of_prompts[0][1:]):
        assert entry[str(ids[place + 1])]["logprob"] == pytest.approx(expected[place, ids[place + 1]], abs=1e-4)
        assert sum(one["rank"] is not None and one["rank"] <= 2 for one in entry.values()) == 2


KILLED = """
import os, signal, sys
import flyweight

class Deadly(flyweight.Silent):
    count = 0
    def advance(self, amount=1, *, note=""):
        Deadly.count += 1
        if Deadly.count == {after}:
            os.kill(os.getpid(), signal.SIGKILL)

flyweight.batch({source!r}, {output!r}, model={model!r}, progress=Deadly())
"""


def test_a_killed_batch_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    lines: list[Any] = [request(number) for number in range(60)]
    lines[20] = "not json"
    source = write_lines(tmp_path / "in.jsonl", lines)
    flyweight.batch(source, tmp_path / "whole.jsonl", model=folder)
    output = tmp_path / "out.jsonl"
    code = KILLED.format(after=25, source=str(source), output=str(output), model=str(folder))
    died = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not output.exists()
    partial = tmp_path / "out.jsonl.partial"
    kept = len(partial.read_text().splitlines()) - 1
    assert 5 < kept < 60
    with partial.open("ab") as file:
        file.write(b'{"line":59,"result":{"id":"cut sho')
    report = flyweight.batch(source, output, model=folder)
    assert (report.lines, report.failed, report.resumed) == (60, 1, kept)
    assert answers(read_results(output)) == answers(read_results(tmp_path / "whole.jsonl"))


def test_what_is_finished_needs_no_model(folder: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", ["{}", "[]"])
    report = flyweight.batch(source, tmp_path / "out.jsonl", model=tmp_path / "nowhere")
    assert (report.lines, report.failed) == (2, 2)


def test_a_run_that_did_nothing_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [request(0), "{}"])
    with pytest.raises(UsageError):
        flyweight.batch(source, tmp_path / "out.jsonl", model=tmp_path / "nowhere")
    assert flyweight.batch(source, tmp_path / "out.jsonl", model=folder).failed == 1


def test_files_that_cannot_be_used_are_refused(folder: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [request(0)])
    with pytest.raises(UsageError, match=r"missing\.jsonl does not exist"):
        flyweight.batch(tmp_path / "missing.jsonl", tmp_path / "out.jsonl", model=folder)
    with pytest.raises(UsageError, match=r"in\.jsonl exists already"):
        flyweight.batch(source, source, model=folder)
    with pytest.raises(UsageError, match=r"the folder .* does not exist"):
        flyweight.batch(source, tmp_path / "no" / "out.jsonl", model=folder)
    with pytest.raises(UsageError, match="speculate='lookup' is unknown; choose off, prompt-lookup"):
        flyweight.batch(source, tmp_path / "out.jsonl", model=folder, speculate="lookup")


def test_a_record_of_another_job_is_not_continued(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with BatchRecord(output, {"model": "a", "input_sha256": "1"}) as record:
        record.add(1, {"error": None})
    with pytest.raises(UsageError, match=r"holds results of another batch \(different: model\)"):
        BatchRecord(output, {"model": "b", "input_sha256": "1"})
    with BatchRecord(output, {"model": "a", "input_sha256": "1"}) as record:
        assert record.finished == {1}


def test_whatever_the_record_was_cut_at_it_is_read(tmp_path: Path) -> None:
    output, job = tmp_path / "out.jsonl", {"model": "a"}
    with BatchRecord(output, job) as record:
        for number in (2, 1, 3):
            record.add(number, {"error": None, "text": "é\ud800" if number == 1 else "é"})
    whole = record.path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for cut in sorted({*range(0, len(whole), 9), *ends, *(end - 1 for end in ends)}):
        record.path.write_bytes(whole[:cut])
        with BatchRecord(output, job) as again:
            assert len(again.finished) == max(0, sum(end <= cut for end in ends) - 1)
            for number in {1, 2, 3} - again.finished:
                again.add(number, {"error": None, "text": "é"})
            again.finish()
        assert len(read_results(output)) == 3
        output.unlink()


def test_long_lines_do_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"a\n\n" + b"x" * 100 + b"\n" + b"y" * 10 + b"\n" + b"z" * 11)
    lines = list(read_lines(path, 10))
    assert [(line.number, line.text, line.size) for line in lines] == [
        (1, b"a\n", 2),
        (3, None, 101),
        (4, b"y" * 10 + b"\n", 11),
        (5, None, 11),
    ]
