"""Speculation on a loaded model: chosen by a word, refused in words, and without any trace in the answers."""

import json
from pathlib import Path
from typing import Any

import pytest

import flyweight
from flyweight.engine.speculation.choice import SpeculationChoice
from flyweight.engine.speculation.controller import DraftController, DraftLimits
from flyweight.engine.speculation.draft_model import DraftModel
from flyweight.engine.speculation.prompt_lookup import PromptLookup
from flyweight.errors import UsageError
from tests.support.checkpoints import write_tiny_llama, write_word_tokenizer

EAGER = DraftLimits(longest=5, allowed_loss=1e9, credit_steps=1e9, least_gain=0.0)
BIAS = tuple((token, 5.0) for token in (3, 9, 21))  # few tokens, so that pairs come again
PROMPTS = ["w3 w4 w5 w3 w4", "w9 w9 w9", "w20 w21 w22 w23 w20 w21"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(path, tied=False)
    write_word_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other")
    write_tiny_llama(path, tied=False, seed=1)
    write_word_tokenizer(path)
    return path


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "top_p": 0.9, "seed": 5}])
def test_answers_are_the_same_to_the_token(folder: Path, options: dict[str, Any]) -> None:
    chosen = flyweight.SamplingOptions(max_tokens=40, ignore_eos=True, logit_bias=BIAS, **options)
    model = flyweight.load(folder, batch_invariant=True)
    plain = [one.token_ids for one in model.generate(PROMPTS, chosen)]
    model.open_engine(proposer=PromptLookup(DraftController(EAGER)))
    guessed = model.generate(PROMPTS, chosen)
    assert [one.token_ids for one in guessed] == plain
    assert sum(one.usage.draft_tokens for one in guessed) > 10
    assert all(one.usage.accepted_tokens <= one.usage.draft_tokens for one in guessed)


def test_a_draft_model_is_loaded_and_does_not_change_greedy_answers(folder: Path, other: Path) -> None:
    chosen = flyweight.SamplingOptions(max_tokens=30, ignore_eos=True)
    plain = [one.token_ids for one in flyweight.load(folder, batch_invariant=True).generate(PROMPTS, chosen)]
    for draft in (folder, other):
        model = flyweight.load(folder, batch_invariant=True, speculate=f"draft:{draft}")
        proposer = model.engine._proposer
        assert isinstance(proposer, DraftModel)
        proposer.controller = DraftController(EAGER)
        guessed = model.generate(PROMPTS, chosen)
        assert [one.token_ids for one in guessed] == plain
        share = sum(one.usage.accepted_tokens for one in guessed) / sum(one.usage.draft_tokens for one in guessed)
        assert share > 0.9 if draft == folder else share < 0.5


def test_draft_models_of_other_vocabularies_are_refused(folder: Path, tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, tied=False, vocab_size=64)
    with pytest.raises(UsageError, match="the draft model has 64 tokens and the model 128"):
        flyweight.load(folder, speculate=f"draft:{tmp_path}")
    words = (folder / "tokenizer.json").read_text().replace('"w7"', '"seven"')
    (tmp_path / "tokenizer.json").write_text(words)
    with pytest.raises(UsageError, match="spells token 7 as 'seven' and the model 'w7'"):
        flyweight.load(folder, speculate=f"draft:{tmp_path}")


def test_models_whose_rope_moves_are_refused(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, tied=False)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_scaling"] = {"rope_type": "dynamic", "factor": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="its rotary frequencies follow the length"):
        flyweight.load(tmp_path, speculate="prompt-lookup")


@pytest.mark.parametrize("text", ["on", "draft", "draft:", "prompt_lookup", ""])
def test_words_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="choose off, prompt-lookup, or draft:PATH"):
        SpeculationChoice.parse(text)


def test_words() -> None:
    assert SpeculationChoice.parse("draft:a:b").draft_model == "a:b"
    assert SpeculationChoice.parse("prompt-lookup").kind == "prompt-lookup"
