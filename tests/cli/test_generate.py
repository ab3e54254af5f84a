"""``flyweight generate`` and ``chat``: what they print, and one clear line and exit code 2 for what cannot be done."""

import importlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flyweight import demo_model
from flyweight.cli import main
from flyweight.tokenizer import Tokenizer
from tests.support.checkpoints import tiny_llama_config, write_tiny_llama, write_word_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(path, tied=False)
    write_word_tokenizer(path)
    return path


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad input must be refused before weights are read."""
    for verb in ("generate", "chat"):  # the package's attributes of these names are the functions
        module = importlib.import_module(f"flyweight.cli.{verb}")
        monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("the weights were loaded"))


def answer_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["generate", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("verb", ["generate", "chat"])
def test_the_tokenizer_is_read_once(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    opened = Tokenizer.open
    monkeypatch.setattr(Tokenizer, "open", lambda path: read.append(path) or opened(path))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main([verb, str(demo_model.model_path()), *(["w3"] if verb == "generate" else [])]) == 0
    assert len(read) == 1


def test_the_answer_streams_to_standard_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(folder), "w3 w4", "--max-tokens", "8", "--ignore-eos"]
    described = answer_of(capsys, *arguments)
    assert main(["generate", *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.out == described["text"] + "\n"
    assert printed.err == ""
    assert len(described["token_ids"]) == 8
    assert described["finish_reason"] == "length"
    counts = {"prompt_tokens": 2, "completion_tokens": 8, "cached_tokens": 0}
    assert described["usage"] == counts | {"draft_tokens": 0, "accepted_tokens": 0}
    assert described["decode_tokens_per_second"] > 0


def test_options_reach_the_sampler(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = [str(folder), "w3", "--max-tokens", "12", "--ignore-eos"]
    greedy = answer_of(capsys, *base)
    drawn = [answer_of(capsys, *base, "--temperature", "2", "--seed", seed)["token_ids"] for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]
    assert greedy["token_ids"] not in drawn
    word = greedy["text"].split()[2]
    stopped = answer_of(capsys, *base, "--stop", "never", "--stop", word)
    assert (stopped["finish_reason"], stopped["stop_string"]) == ("stop", word)
    assert stopped["text"] == greedy["text"][: greedy["text"].index(word)]


def test_prompts_from_files_and_standard_input(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompt.txt").write_text("w3 w4")
    expected = answer_of(capsys, str(folder), "w3 w4")["text"]
    assert answer_of(capsys, str(folder), "--prompt-file", str(tmp_path / "prompt.txt"))["text"] == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"w3 w4")))
    assert answer_of(capsys, str(folder), "-")["text"] == expected


def test_samples_are_printed_one_by_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(folder), "w3", "--max-tokens", "6", "--temperature", "1", "--seed", "4", "--ignore-eos"]
    assert main(["generate", *arguments, "--samples", "3", "--json", "--batch-invariant"]) == 0
    described = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({one["text"] for one in described}) == 3
    assert described[0]["text"] == answer_of(capsys, *arguments, "--batch-invariant")["text"]
    assert main(["generate", *arguments, "-n", "3", "--batch-invariant"]) == 0
    printed = capsys.readouterr().out
    assert printed == "".join(f"[{number} of 3]\n{one['text'].strip()}\n\n" for number, one in enumerate(described, 1))


def test_constraints_bind_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "schema.json").write_text('{"type": "array", "items": {"const": 7}, "minItems": 2, "maxItems": 2}')
    (tmp_path / "grammar.lark").write_text('start: "ab" | "cd"')
    model = str(demo_model.model_path())
    assert json.loads(answer_of(capsys, model, "x", "--json-schema", str(tmp_path / "schema.json"))["text"]) == [7, 7]
    assert answer_of(capsys, model, "x", "--grammar", str(tmp_path / "grammar.lark"))["text"] in ("ab", "cd")
    assert answer_of(capsys, model, "x", "--choice", "yes", "--choice", "no")["text"] in ("yes", "no")
    assert answer_of(capsys, model, "x", "--regex", "-[0-9]{2}")["text"][1:].isdigit()
    assert main(["generate", model, "x", "--regex", "("]) == 2
    assert "--regex cannot be used as a constraint: " in capsys.readouterr().err


def test_chat_goes_through_the_template(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    templated = answer_of(capsys, str(folder), "w9", "--chat", "--system", "w8")
    assert templated["text"] == answer_of(capsys, str(folder), "system w8 user w9")["text"]


def test_stats_say_what_runs_and_how_fast(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(folder), "w3", "--max-tokens", "4", "--stats"]) == 0
    printed = capsys.readouterr().err
    assert "linear layers: 14 float32 in float32" in printed
    assert "tokens/s), ended by length" in printed


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["w3 " * 200], "the prompt has 200 tokens and the context holds 128, so there is no room for an answer"),
        ([""], "the prompt has no tokens"),
        (["w3", "--samples", "0"], "--samples 0 is not allowed; choose 1 or more"),
        ([], "give the prompt either as an argument (- reads standard input) or with --prompt-file"),
        (["w3", "--prompt-file", "x"], "give the prompt either as an argument"),
        (["--prompt-file", "/nonexistent/x"], "--prompt-file /nonexistent/x does not exist"),
        (["w3", "--system", "w4"], "--system needs --chat"),
        (["w3", "--regex", "a", "--choice", "b"], "--regex and --choice both say what the answer must look like"),
        (["w3", "--json-schema", "/nonexistent/x"], "--json-schema /nonexistent/x cannot be read: No such file"),
        (["w3", "--temperature", "9"], "temperature=9.0 is out of range; choose 0 to 2"),
        (["w3", "--top-p", "0"], "top_p=0.0 is out of range; choose above 0 to 1"),
        (["w3", "--max-tokens", "none"], "max-tokens"),
        (["w3", "--temprature", "1"], "--temprature"),
        (["w3", "--compute", "int2"], "compute"),
    ],
)
def test_bad_input_gets_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["generate", str(folder), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.startswith("flyweight: ")
    assert len(printed.err.splitlines()) == 1


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize("verb", ["generate", "chat"])
def test_a_missing_tokenizer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    write_tiny_llama(tmp_path)
    assert main([verb, str(tmp_path), *(["w3"] if verb == "generate" else [])]) == 2
    assert "has no tokenizer.json; copy the tokenizer files of the model into the folder" in capsys.readouterr().err


@pytest.mark.usefixtures("no_loading")
def test_prompt_files_must_be_utf8(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    assert main(["generate", str(folder), "--prompt-file", str(tmp_path / "latin")]) == 2
    assert "is not UTF-8 (byte 0); convert it first" in capsys.readouterr().err


@pytest.mark.usefixtures("no_loading")
def test_chat_needs_a_template(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_llama(tmp_path)
    write_word_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert main(["chat", str(tmp_path)]) == 2
    assert "has no chat template" in capsys.readouterr().err
    assert main(["generate", str(tmp_path), "w3", "--chat"]) == 2
    assert "has no chat template" in capsys.readouterr().err


class Terminal:
    """Lines that a user types; an exception among them is raised instead."""

    def __init__(self, lines: list[str | type[BaseException]]) -> None:
        self._lines: Iterator[str | type[BaseException]] = iter(lines)

    def __call__(self, prompt: str = "") -> str:
        line = next(self._lines, EOFError)
        if isinstance(line, str):
            return line
        raise line


def talk(
    folder: Path, lines: list[str | type[BaseException]], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> list[list[dict[str, str]]]:
    """Run a conversation; returns the messages that each answer was made from."""
    seen: list[list[dict[str, str]]] = []
    module = importlib.import_module("flyweight.cli.chat")
    real = module.load

    def watched(*positional: Any, **named: Any) -> Any:
        model = real(*positional, **named)
        stream = model.stream
        monkeypatch.setattr(
            model, "stream", lambda messages, options: (seen.append(list(messages)), stream(messages, options))[1]
        )
        return model

    monkeypatch.setattr(module, "load", watched)
    monkeypatch.setattr("builtins.input", Terminal(lines))
    assert main(["chat", str(folder), "--max-tokens", "5", *arguments]) == 0
    return seen


def test_a_turn_finds_the_turns_before_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system = " ".join(["w3"] * 40)
    talk(folder, ["w4", "w5", "/exit"], monkeypatch, "--system", system, "--stats")
    assert "(32 from the cache)" in capsys.readouterr().err
    talk(folder, ["w4", "w5", "/exit"], monkeypatch, "--system", system, "--stats", "--no-prefix-caching")
    assert "from the cache" not in capsys.readouterr().err


def test_a_conversation_remembers_until_reset(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = talk(
        folder,
        [
            "w3",
            "",
            "w4",
            "/reset",
            "w5",
            "/system w6",
            "w7",
            "/system",
            "w8",
            KeyboardInterrupt,
            "/what",
            "/exit",
            "w9",
        ],
        monkeypatch,
        "--system",
        "w10",
    )
    roles = [[message["role"][0] for message in messages] for messages in seen]
    assert roles == [list("su"), list("suau"), list("su"), list("su"), list("u")]
    assert [messages[-1]["content"] for messages in seen] == ["w3", "w4", "w5", "w7", "w8"]
    assert [messages[0]["content"] for messages in seen] == ["w10", "w10", "w10", "w6", "w8"]
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == seen[1][2]["content"]
    assert "/exit or Ctrl-D leaves" in printed.err
    assert "/what is not a command" in printed.err


def test_a_full_context_is_said_and_the_talk_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = talk(folder, ["w3 " * 200, "w4", "w5 " * 120, "/exit"], monkeypatch, "--ignore-eos")
    assert [len(messages) for messages in seen] == [1, 1, 3]
    printed = capsys.readouterr().err
    assert "the prompt has 201 tokens and the context holds 128" in printed
    assert "/reset forgets the conversation so far" in printed
    assert printed.count("[stopped at --max-tokens]") == 1
    assert tiny_llama_config()["max_position_embeddings"] == 128


def test_control_c_stops_the_answer_and_keeps_what_was_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flyweight.engine.generation import Answer

    read, count = Answer.read, 0

    def interrupted(self: Answer, event: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return read(self, event)

    monkeypatch.setattr(Answer, "read", interrupted)
    seen = talk(folder, ["w3", "w4"], monkeypatch, "--ignore-eos")
    assert "[stopped]" in capsys.readouterr().err
    assert [message["role"] for message in seen[1]] == ["user", "assistant", "user"]
    assert len(seen[1][1]["content"].split()) == 2
