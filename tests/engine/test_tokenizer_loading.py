"""When the tokenizer is read: what comes back, and where what goes wrong is said."""

from pathlib import Path

import pytest

from flyweight.demo_model import model_path
from flyweight.engine.tokenizer_loading import TokenizerLoading
from flyweight.errors import CheckpointError, UsageError
from flyweight.tokenizer import Tokenizer


def test_it_is_the_tokenizer_of_the_folder_however_often_it_is_asked_for() -> None:
    loading = TokenizerLoading(model_path())
    tokenizer = loading.result()
    assert tokenizer is not None
    assert tokenizer is loading.result()
    assert tokenizer.encode("hello there") == Tokenizer.open(model_path()).encode("hello there")


def test_a_folder_without_one_gives_none(tmp_path: Path) -> None:
    assert TokenizerLoading(tmp_path).result() is None


def test_what_fails_in_the_thread_is_raised_where_the_result_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    loading = TokenizerLoading(tmp_path)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
            loading.result()


def test_a_lazy_one_is_read_when_it_is_first_asked_for(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    loading = TokenizerLoading(tmp_path, "lazy")
    (tmp_path / "tokenizer.json").write_bytes((model_path() / "tokenizer.json").read_bytes())
    tokenizer = loading.result()
    assert tokenizer is not None
    assert tokenizer is loading.result()


def test_one_that_was_read_before_is_taken(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(model_path())
    assert TokenizerLoading(tmp_path, tokenizer).result() is tokenizer


def test_another_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tokenizer='later' is unknown; choose eager, lazy or a Tokenizer"):
        TokenizerLoading(tmp_path, "later")  # type: ignore[arg-type]
