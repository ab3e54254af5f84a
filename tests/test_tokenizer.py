"""The tokenizer: agreement with transformers, BOS rules, chat templates, pieces of a stream."""

import json
import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from flyweight.errors import CheckpointError, UsageError
from flyweight.tokenizer import Tokenizer

DATA = Path(os.environ.get("FLYWEIGHT_TEST_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="FLYWEIGHT_TEST_DATA does not name a folder of test models")
FOLDERS = ("tokenizers/gpt2", "tokenizers/llama2", "tokenizers/llama3", "tokenizers/mistral_v1", "tokenizers/qwen")
MODELS = ("models/stories260K", "models/stories3M", "models/tinystories-656k", "models/tinytalk-chat-3m")
TEXTS = (
    "Once upon a time, there was a cat.",
    "  two leading spaces and a trailing one ",
    "",
    "\n\n\tdef f(x):\n    return x\n",
    "naïve café — 東京 😀👩‍👩‍👧 e\u0301 ﷽ \u200b",
    "<s>not a user's token</s> <|endoftext|> <|im_start|>",
)
unicode_text = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from(list(" \n\té\u0301東京語😀👩\u200d🏽ก\u0e48\N{REPLACEMENT CHARACTER}")),
    ),
    max_size=40,
)


@cache
def opened(name: str) -> Tokenizer:
    return Tokenizer.open(DATA / name)


@cache
def byte_level() -> Tokenizer:
    """A byte-level BPE trained on a few words: most characters are split over several tokens."""
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<bos>", "<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator(["the cat sat on the mat", "naïve café"], trainer)
    return Tokenizer(core, special_tokens={"bos_token": "<bos>", "eos_token": "<eos>"}, add_bos=True)


@cache
def byte_fallback() -> Tokenizer:
    """A SentencePiece-like vocabulary: a space belongs to the word after it, unknown characters are bytes."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "é", "▁a", "▁▁"]
    core = tokenizers.Tokenizer(
        models.BPE(
            {word: index for index, word in enumerate(words)},
            [("▁", "a"), ("▁", "▁")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    core.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens(["<s>", "</s>"])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", 1)])
    return Tokenizer(core, special_tokens={"bos_token": "<s>", "eos_token": "</s>"})


def pieces(tokenizer: Tokenizer, ids: list[int], context: tuple[int, ...] = ()) -> Iterator[str]:
    detokenizer = tokenizer.detokenizer(context)
    for index in ids:
        yield detokenizer.push(index)
    yield detokenizer.finish()


def check_pieces(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@given(data=st.data())
def test_pieces_of_random_ids_join_to_the_whole(make: Any, data: st.DataObject) -> None:
    tokenizer = make()
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=30))
    check_pieces(tokenizer, ids)


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@given(text=unicode_text)
def test_pieces_of_text_join_to_the_text(make: Any, text: str) -> None:
    tokenizer = make()
    ids = tokenizer.encode(text)
    check_pieces(tokenizer, ids)
    assert "".join(pieces(tokenizer, ids)) == text


@needs_data
@pytest.mark.parametrize("name", FOLDERS + MODELS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_pieces_of_real_tokenizers_join_to_the_whole(name: str, data: st.DataObject) -> None:
    tokenizer = opened(name)
    check_pieces(tokenizer, data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30)))
    check_pieces(tokenizer, data.draw(st.lists(st.integers(0, min(300, tokenizer.vocab_size - 1)), max_size=30)))
    check_pieces(tokenizer, tokenizer.encode(data.draw(unicode_text)))


def test_a_character_is_shown_when_its_last_byte_arrives() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("a😀b", add_special_tokens=False)
    assert [piece for piece in pieces(tokenizer, ids) if piece] == ["a", "😀", "b"]


def test_a_continuation_keeps_the_space_that_joins_it_to_the_prompt() -> None:
    tokenizer = byte_fallback()
    prompt = tokenizer.encode("b")
    answer = [tokenizer.token_id("▁a") or 0]
    assert "".join(pieces(tokenizer, answer, tuple(prompt))) == " a"
    assert "".join(pieces(tokenizer, answer, (1,))) == "a"


@pytest.mark.parametrize("length", [1, 7, 8, 9, 40])
def test_a_long_context_does_not_change_the_continuation(length: int) -> None:
    tokenizer = byte_level()
    prompt, answer = tokenizer.encode("é" * length, add_special_tokens=False), tokenizer.encode(" é😀")
    whole = tokenizer.decode(prompt + answer)
    assert "é" * length + "".join(pieces(tokenizer, answer, tuple(prompt))) == whole


def test_unfinished_characters_end_as_replacement_characters() -> None:
    tokenizer = byte_fallback()
    ids = [tokenizer.token_id("<0xF0>") or 0, tokenizer.token_id("<0x9F>") or 0]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids) == "\N{REPLACEMENT CHARACTER}" * 2


def test_bos_rule_of_the_config_wins_over_the_post_processor(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    byte_fallback()._core.save(str(path))
    named: dict[str, Any] = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    expected = {None: [1], False: [], True: [1]}
    for flag, prefix in expected.items():
        config = named if flag is None else {**named, "add_bos_token": flag}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = Tokenizer.open(tmp_path)
        assert tokenizer.encode("a") == [*prefix, *tokenizer.encode("a", add_special_tokens=False)]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**named, "add_eos_token": True}))
    assert Tokenizer.open(tmp_path).encode("a")[-1] == 2


@needs_data
@pytest.mark.parametrize("name", FOLDERS + MODELS)
def test_ids_and_text_agree_with_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    # For tinystories-656k the class that AutoTokenizer picks rebuilds the normalizer instead of reading it, and the
    # plain one does not skip its special tokens, which the file says are to be normalized.
    is_odd = name.endswith("656k")
    kind = transformers.PreTrainedTokenizerFast if is_odd else transformers.AutoTokenizer
    theirs, ours = kind.from_pretrained(DATA / name), opened(name)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]
        assert ours.encode(text, add_special_tokens=False) == theirs(text, add_special_tokens=False)["input_ids"]
        for skip in (False,) if is_odd else (True, False):
            expected = theirs.decode(theirs(text)["input_ids"], skip_special_tokens=skip)
            assert ours.decode(ours.encode(text), skip_special_tokens=skip) == expected


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather & more in a <city>",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Où?"}},
            "required": ["city"],
        },
    },
}
CONVERSATIONS: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]] | None], ...] = (
    ([{"role": "user", "content": "Hello <b>&</b> 東京"}], None),
    (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Weather?"},
        ],
        None,
    ),
    ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather in Köln?"}], [TOOL]),
    (
        [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "abcdefghi",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": {"city": "Köln"}},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": '{"rain": true}'},
        ],
        [TOOL],
    ),
    ([{"role": "assistant", "content": "out of turn"}, {"role": "assistant", "content": "twice"}], None),
)


def template_files() -> list[Path]:
    return sorted((DATA / "chat" / "templates").glob("*.jinja")) if DATA.is_dir() else []


@needs_data
def test_the_templates_are_all_there() -> None:
    assert len(template_files()) >= 17


@needs_data
@pytest.mark.parametrize("path", template_files(), ids=lambda path: path.stem)
def test_chat_templates_render_as_in_transformers(path: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DATA / "tokenizers" / "llama3" / name, tmp_path / name)
    shutil.copy(path, tmp_path / "chat_template.jinja")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.open(tmp_path)
    rendered, variables = 0, {"functions": "[]", "datetime": "now", "date_string": "1 May 2026"}
    for messages, tools in CONVERSATIONS:
        for prompt in (True, False):
            try:
                expected = theirs.apply_chat_template(
                    messages, tools=tools, add_generation_prompt=prompt, tokenize=False, **variables
                )
            except Exception:  # noqa: BLE001 - whatever a stranger's template raises
                with pytest.raises(UsageError, match="refuses this conversation"):
                    ours.render_chat(messages, tools=tools, variables=variables, add_generation_prompt=prompt)
                continue
            text = ours.render_chat(messages, tools=tools, variables=variables, add_generation_prompt=prompt)
            assert text == expected
            rendered += 1
            ids = theirs.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, **variables)
            assert (
                ours.encode_chat(messages, tools=tools, variables=variables, add_generation_prompt=prompt)
                == ids["input_ids"]
            )
    assert rendered >= 2


def with_template(template: Any, folder: Path) -> Tokenizer:
    byte_level()._core.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.open(folder)


def test_named_templates_are_chosen_by_the_tools(tmp_path: Path) -> None:
    tokenizer = with_template(
        [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools | tojson }}"}], tmp_path
    )
    message = [{"role": "user", "content": "x"}]
    assert tokenizer.render_chat(message) == "plain"
    assert tokenizer.render_chat(message, tools=[{"b": 1, "a": "<é>"}]) == '[{"b": 1, "a": "<é>"}]'


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace(__init__=1) %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ raise_exception('roles must alternate') }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_templates_cannot_leave_the_sandbox(template: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"chat template of .* refuses this conversation"):
        with_template(template, tmp_path).render_chat([{"role": "user", "content": "x"}])


def test_template_tags_and_helpers_of_transformers(tmp_path: Path) -> None:
    tokenizer = with_template(
        "{{ bos_token }}{% for m in messages %}\n"
        "    {% if m.content == 'skip' %}{% continue %}{% endif %}\n"
        "{% generation %}{{ m.content }}{% endgeneration %}{{ strftime_now('%%') }}\n"
        "{% endfor %}",
        tmp_path,
    )
    messages = [{"role": "user", "content": text} for text in ("a", "skip", "b")]
    assert tokenizer.render_chat(messages) == "<bos>a%\nb%\n"
    assert tokenizer.encode_chat(messages)[0] == tokenizer.bos_token_id


def test_messages_must_be_plain_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a message holds a PosixPath"):
        with_template("{{ messages }}", tmp_path).render_chat([{"role": "user", "content": tmp_path}])


def test_errors_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json; copy the tokenizer files"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"SentencePiece tokenizer\.model but no tokenizer\.json"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        Tokenizer.open(tmp_path)
    byte_level()._core.save(str(tmp_path / "tokenizer.json"))
    for content, message in (
        ("[]", "must hold an object"),
        ("{", "is not valid JSON"),
        ('{"bos_token": 3}', "bos_token in the tokenizer files is 3"),
        ('{"chat_template": "{% if %}"}', "is not valid Jinja"),
        ('{"chat_template": [{"name": "default"}]}', "must be a string or a list of objects"),
    ):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ \xff }}")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja is not UTF-8 \(byte 3\)"):
        Tokenizer.open(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    tokenizer = Tokenizer.open(tmp_path)
    with pytest.raises(UsageError, match="has no chat template"):
        tokenizer.render_chat([{"role": "user", "content": "x"}])
    with pytest.raises(UsageError, match="not valid Unicode at character 1"):
        tokenizer.encode("a\ud800")
