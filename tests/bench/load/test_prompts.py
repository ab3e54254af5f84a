import numpy as np
import pytest

from flyweight.bench.load.lengths import Lengths
from flyweight.bench.load.prompts import FromFile, RandomIds, RandomText, read_prompts
from flyweight.bench.load.token_lengths import ByTokenizer, ByWords
from flyweight.bench.load.trace import read_trace, trace_asks
from flyweight.bench.load.words import WORDS
from flyweight.demo_model import model_path
from flyweight.errors import DataError, UsageError
from flyweight.tokenizer import Tokenizer

FIVE = Lengths.parse("5")


def read(path, text, endpoint="completions"):
    path.write_text(text)
    return read_prompts(path, FIVE, endpoint=endpoint, seed=0)


def test_a_tokenizer_cuts_prompts_to_their_length():
    tokenizer = Tokenizer.open(model_path())
    source = RandomText(
        ByTokenizer(tokenizer=tokenizer), Lengths.parse("100"), FIVE, shared_prefix=0, prefixes=1, seed=0
    )
    counts = [len(tokenizer.encode(source.draw().prompt, add_special_tokens=False)) for _ in range(20)]
    assert np.abs(np.asarray(counts) - 100).max() <= 2


def test_the_words_of_a_prompt_follow_from_the_probes():
    maker = ByWords.of_probes(43, 83, 123, WORDS[:96], "usage")
    assert maker.fixed == 3
    assert maker.per_word == 1.25
    words = maker.text(128, np.random.default_rng(0)).split()
    assert len(words) == 100
    assert set(words) <= set(WORDS[:96])
    with pytest.raises(
        UsageError, match="usage tells 9, 9 and 9 tokens for halves and whole of 96 words; give --token"
    ):
        ByWords.of_probes(9, 9, 9, WORDS[:96], "usage")


def test_random_ids_are_inside_the_vocabulary_and_share_prefixes():
    source = RandomIds(5000, Lengths.parse("20"), FIVE, shared_prefix=10, prefixes=1, seed=3)
    first, second = source.draw(), source.draw()
    assert first.input_tokens == len(first.prompt) == 30
    assert first.prompt[:10] == second.prompt[:10]
    assert first.prompt[10:] != second.prompt[10:]
    assert min(first.prompt) >= 1000
    assert max(first.prompt) < 4750


def test_files_of_prompts(tmp_path):
    lines = '{"prompt": "a"}\n\n{"prompt": "b", "max_tokens": 9}\n'
    asks = read(tmp_path / "p.jsonl", lines)
    assert [(one.prompt, one.output_tokens) for one in asks] == [("a", 5), ("b", 9)]
    source = FromFile(asks)
    assert [source.draw().prompt for _ in range(3)] == ["a", "b", "a"]
    assert read(tmp_path / "i.jsonl", '{"prompt": [5, 6]}')[0].prompt == (5, 6)
    with pytest.raises(DataError, match="give --endpoint completions"):
        read(tmp_path / "i.jsonl", '{"prompt": [5, 6]}', endpoint="chat")
    assert [one.prompt for one in read(tmp_path / "p.txt", "one\ntwo {x}\n")] == ["one", "two {x}"]
    asks = read(tmp_path / "m.jsonl", '{"messages": [{"role": "user", "content": "hi"}]}', endpoint="chat")
    assert asks[0].messages[0]["content"] == "hi"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 of .* is no JSON"),
        ("[1]", "is no JSON object"),
        ('{"text": "x"}', 'neither "prompt"'),
        ('{"prompt": "x", "max_tokens": 0}', "max_tokens is 0; write a whole number from 1"),
        ('{"messages": [{"role": "user"}]}', "give --endpoint chat"),
        ("", "holds no prompt"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / "p.jsonl", line)


def open_trace(path, text, **given):
    path.write_text(text)
    settings = {"unit_seconds": 1.0, "speed": 1.0, "most": None, "endpoint": "completions", "output_tokens": 4, **given}
    return read_trace(path, **settings)


def test_a_trace_is_sorted_and_begins_with_nought(tmp_path):
    text = '{"timestamp": 7, "prompt": "b"}\n{"timestamp": 5.0, "input_tokens": 3, "output_tokens": 2}\n'
    lines = open_trace(tmp_path / "t.jsonl", text, speed=4.0)
    assert [one.time for one in lines] == [0.0, 0.5]
    source = RandomIds(5000, FIVE, FIVE, shared_prefix=0, prefixes=1, seed=0)
    first, second = trace_asks(lines, source)
    assert (len(first.prompt), first.output_tokens) == (3, 2)
    assert (second.prompt, second.output_tokens) == ("b", 4)
    with pytest.raises(DataError, match="lines without a prompt"):
        trace_asks(lines, None)
    assert len(open_trace(tmp_path / "t.jsonl", text, most=1)) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x"}', '"timestamp" is None; write a number'),
        ('{"timestamp": NaN, "prompt": "x"}', '"timestamp" is nan'),
        ('{"timestamp": 1, "input_tokens": 3}', 'no "prompt" and no whole'),
        ("", "holds no request"),
    ],
)
def test_traces_that_cannot_be_read(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        open_trace(tmp_path / "t.jsonl", line)
