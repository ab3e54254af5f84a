"""Calibration text to token ids: sampling, packing, and every way in which a file can be unfit."""

import json

import numpy as np
import pytest

from flyweight.compression.calibration import read_calibration
from flyweight.errors import DataError
from flyweight.tokenizer import Tokenizer
from tests.support.checkpoints import write_word_tokenizer

WORDS = [f"w{i}" for i in range(3, 128)]


@pytest.fixture
def tokenizer(tmp_path):
    write_word_tokenizer(tmp_path / "tokenizer")
    return Tokenizer.open(tmp_path / "tokenizer")


def text(num_words: int, seed: int = 0) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, num_words))


def read(path, tokenizer, *, sequences=4, length=32, seed=0, vocab_size=128):
    return read_calibration(path, tokenizer, sequences=sequences, length=length, seed=seed, vocab_size=vocab_size)


def refused(*arguments, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(*arguments, **options)
    return str(caught.value)


def test_documents_are_shuffled_by_the_seed(tmp_path, tokenizer):
    path = tmp_path / "text.txt"
    path.write_text("<|endoftext|>".join(text(40, seed) for seed in range(30)))
    first, again, other = (read(path, tokenizer, seed=seed) for seed in (0, 0, 1))
    assert first.tokens.shape == (4, 32)
    assert first.content_hash == again.content_hash
    assert first.content_hash != other.content_hash
    assert "4 x 32 tokens of text.txt" in first.summary


def test_one_long_document_is_sampled_all_over(tmp_path, tokenizer):
    path = tmp_path / "book.txt"
    path.write_text(text(5000))
    whole = tokenizer.encode(path.read_text())
    calibration = read(path, tokenizer, sequences=8)
    starts = [
        next(at for at in range(0, len(whole), 32) if whole[at : at + 32] == row.tolist()) for row in calibration.tokens
    ]
    assert starts == sorted(starts)
    assert max(starts) > 2000


def test_jsonl_with_text_and_chats(tmp_path, tokenizer):
    path = tmp_path / "chats.jsonl"
    chat = [{"role": "w5", "content": text(90)}, {"role": "w6", "content": text(90, 1)}]
    path.write_text(json.dumps({"messages": chat}) + "\n\n" + json.dumps({"text": text(60)}) + "\n")
    calibration = read(path, tokenizer)
    assert {5, 6} <= set(calibration.tokens.reshape(-1).tolist())


def test_token_ids_are_taken_as_they_are(tmp_path):
    ids = np.random.default_rng(0).integers(0, 128, (6, 40))
    np.save(tmp_path / "ids.npy", ids.astype(np.int32))
    np.testing.assert_array_equal(read(tmp_path / "ids.npy", None).tokens, ids[:4, :32])


def test_missing(tmp_path, tokenizer):
    assert refused(tmp_path / "no.txt", tokenizer).endswith("no.txt does not exist; give a text, .jsonl or .npy file")


def test_empty(tmp_path, tokenizer):
    (tmp_path / "empty.txt").write_text(" \n<|endoftext|>\n")
    assert refused(tmp_path / "empty.txt", tokenizer).endswith("empty.txt is empty; give text of at least 128 tokens")


def test_too_short(tmp_path, tokenizer):
    (tmp_path / "short.txt").write_text(text(100))
    assert refused(tmp_path / "short.txt", tokenizer).endswith(
        "short.txt gives 100 tokens, but 4 sequences of 32 need 128; "
        "give more text, or lower --sequences (to 3) or --sequence-length"
    )


def test_too_few_tokens_to_mean_anything(tmp_path, tokenizer):
    (tmp_path / "t.txt").write_text(text(500))
    assert refused(tmp_path / "t.txt", tokenizer, sequences=2, length=8).startswith(
        "calibration with 16 tokens is too short: at least 128 are needed"
    )


def test_nearly_all_the_same(tmp_path, tokenizer):
    (tmp_path / "t.txt").write_text("w7 w8 " * 500)
    assert "uses only 2 different tokens of 128; give text of the kind" in refused(tmp_path / "t.txt", tokenizer)


def test_not_utf8(tmp_path, tokenizer):
    (tmp_path / "t.txt").write_bytes(b"abc\xff\xfe")
    assert refused(tmp_path / "t.txt", tokenizer).endswith("is not UTF-8 text (byte 3); convert it")


def test_json_lines_are_named_by_number(tmp_path, tokenizer):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "w3"}\n{"text": ')
    assert "t.jsonl, line 2 is not JSON" in refused(path, tokenizer)
    path.write_text('{"txt": "w3"}\n')
    assert "line 1 has neither 'text' (a string) nor 'messages'" in refused(path, tokenizer)


def test_text_without_a_tokenizer(tmp_path):
    (tmp_path / "t.txt").write_text(text(500))
    assert refused(tmp_path / "t.txt", None).endswith("but the model has no tokenizer; give token ids as .npy")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros((4, 32)), "holds float64 of shape (4, 32); needed: whole numbers (sequences, length)"),
        (np.zeros(9, int), "holds int64 of shape (9,)"),
        (np.zeros((4, 16), int), "holds 4 x 16 token ids, but 4 x 32 are asked for; lower --sequences"),
        (np.full((4, 32), 128), "gives token id 128, but the model's vocabulary is 0 to 127"),
        (np.full((4, 32), -1), "gives token id -1, but the model's vocabulary is 0 to 127"),
    ],
)
def test_unfit_token_ids(tmp_path, ids, message):
    np.save(tmp_path / "ids.npy", ids)
    assert message in refused(tmp_path / "ids.npy", None)


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "ids.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "is not a .npy array of token ids" in refused(tmp_path / "ids.npy", None)


def test_impossible_sizes(tmp_path, tokenizer):
    assert refused(tmp_path / "t.txt", tokenizer, sequences=0).startswith("0 sequences of 32 tokens")
