"""Which tokens end an answer, by what a checkpoint's files say."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from support.checkpoints import tiny_llama_config

from flyweight import load
from flyweight.engine.stop_ids import END_OF_TEXT, read_stop_ids
from flyweight.errors import CheckpointError
from flyweight.models import read_spec
from flyweight.tokenizer import Tokenizer

DATA = Path(os.environ.get("FLYWEIGHT_TEST_DATA", "/nonexistent"))


def spec_with(**config: Any) -> Any:
    base = {name: value for name, value in tiny_llama_config().items() if not name.endswith("s_token_id")}
    return read_spec({**base, **config})


def tokenizer_with(*special: str, words: tuple[str, ...] = (), **named: str) -> Tokenizer:
    """A tokenizer that spells its first tokens like GPT-2's, where id 1 and 2 are marks of punctuation."""
    plain = ["!", '"', "#", *words]
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({text: place for place, text in enumerate(plain)}, "!"))
    core.add_special_tokens(list(special))
    return Tokenizer(core, special_tokens=named)


def test_every_file_that_names_an_end_counts() -> None:
    tokenizer = tokenizer_with("<|a|>", "<|b|>", bos_token="<|a|>", eos_token="<|b|>")
    found = read_stop_ids(spec_with(eos_token_id=[7, 8], bos_token_id=9), {"eos_token_id": 10}, tokenizer)
    assert found == {3, 4, 7, 8, 9, 10}


def test_a_tokenizer_that_names_its_end_needs_no_known_spelling() -> None:
    tokenizer = tokenizer_with("<|end_story|>", "<|endoftext|>", eos_token="<|end_story|>")
    assert read_stop_ids(spec_with(), {}, tokenizer) == {3}


def test_without_names_special_tokens_count_that_are_spelled_as_ends(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tokenizer_with("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    assert read_stop_ids(spec_with(), {}, tokenizer) == {4, 5}
    assert read_stop_ids(spec_with(eos_token_id=None), {"eos_token_id": None}, tokenizer) == {4, 5}
    assert not caplog.records


@pytest.mark.parametrize("text", END_OF_TEXT)
def test_every_known_spelling_is_found(text: str) -> None:
    assert read_stop_ids(spec_with(), {}, tokenizer_with(text)) == {3}


def test_a_word_that_is_spelled_as_an_end_but_not_special_is_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "flyweight"):
        assert read_stop_ids(spec_with(), {}, tokenizer_with(words=("</s>",))) == frozenset()
    assert "answers end by their length only" in caplog.text


def test_no_id_is_guessed_from_the_kind_of_model(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "flyweight"):
        assert read_stop_ids(spec_with(), {}, tokenizer_with("<pad>")) == frozenset()
        assert read_stop_ids(spec_with(), {}, None) == frozenset()
        assert read_stop_ids(spec_with(bos_token_id=5), {}, None) == {5}
    assert len(caplog.records) == 3


@pytest.mark.parametrize("wrong", ["end", True, [1, "2"], 1.5, {}])
def test_an_end_that_is_no_id_is_refused(wrong: object) -> None:
    with pytest.raises(CheckpointError, match="must be an id or a list of ids"):
        read_stop_ids(spec_with(), {"eos_token_id": wrong}, None)


@pytest.mark.parametrize("name", ["stories260K", "stories3M", "tinystories-656k"])
def test_story_models_end_where_their_files_say(name: str) -> None:
    folder = DATA / "models" / name
    if not folder.is_dir():
        pytest.skip(f"FLYWEIGHT_TEST_DATA does not hold models/{name}")
    assert load(folder).stop_ids == {1, 2}
    # The same without what the two configs say: the tokenizer names them.
    config = json.loads((folder / "config.json").read_text())
    del config["bos_token_id"], config["eos_token_id"]
    assert read_stop_ids(read_spec(config), {}, Tokenizer.open(folder)) == {1, 2}
