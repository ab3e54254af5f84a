"""The bytes that the grammar engine sees of a token are those that the detokenizer makes of it."""

import os
import random
from pathlib import Path

import pytest

from flyweight import demo_model
from flyweight.engine.grammar.vocabulary import read_vocabulary
from flyweight.tokenizer import Tokenizer

TEXTS = [
    '{"name": "Jörg", "tags": ["a", "b\\n"], "n": -1.5e3}',
    "日本語 🙂 𝔘 \u0301 naïve \t\r\n  two  blanks",
    "def f(x):\n    return x ** 2  # äöü",
    "مرحبا नमस्ते",
]


def folders():
    yield pytest.param(demo_model.model_path(), id="demo_model")
    data = os.environ.get("FLYWEIGHT_TEST_DATA")
    for name in ("models/stories260K", "models/stories3M", "models/tinystories-656k", "models/tinytalk-chat-3m",
                 "tokenizers/llama2", "tokenizers/llama3", "tokenizers/qwen", "tokenizers/gpt2",
                 "tokenizers/mistral_v1"):  # fmt: skip
        skip = pytest.mark.skipif(data is None, reason="FLYWEIGHT_TEST_DATA names no folder of test data")
        yield pytest.param(Path(data or "") / name, id=name, marks=skip)


@pytest.mark.parametrize("folder", list(folders()))
def test_bytes_of_tokens(folder):
    tokenizer = Tokenizer.open(folder)
    vocabulary = read_vocabulary(tokenizer, vocab_size=tokenizer.vocab_size, stop_ids=[0])
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if tokenizer.token_id("<unk>") in ids:
            continue
        assert vocabulary.decode_bytes(ids).decode().removeprefix(" ") == tokenizer.decode(ids).removeprefix(" ")
    chance = random.Random(1)
    for _ in range(300):  # after something else, each piece is what it is anywhere
        ids = [chance.randrange(tokenizer.vocab_size) for _ in range(3)]
        before = tokenizer.encode("x", add_special_tokens=False)
        if any(vocabulary.is_special_token(index) or tokenizer.token(index) is None for index in ids):
            continue
        shown = tokenizer.decode([*before, *ids], skip_special_tokens=False).removeprefix(" ")
        assert (b"x" + vocabulary.decode_bytes(ids)).decode(errors="replace").count("\ufffd") == 0 or "\ufffd" in shown
        if "\ufffd" not in shown:
            assert (b"x" + vocabulary.decode_bytes(ids)).decode() == shown
    for name, text in tokenizer.special_tokens.items():
        if isinstance(text, str) and name != "unk_token":
            assert vocabulary.is_special_token(tokenizer.token_id(text)), name
