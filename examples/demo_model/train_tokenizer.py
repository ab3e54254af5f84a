"""Trains the byte-level BPE tokenizer on text of the generator and writes tokenizer.json and tokenizer_config.json.

Digits are one token each, so that columns of an addition are visible to the model. A space is a token of its own, so
that a word has the same tokens after a space, a quote and a line break, and copying it needs no table.
Run from the repository root: ``python -m examples.demo_model.train_tokenizer``.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.demo_model.documents import (
    BOS,
    END,
    MAX_LINES,
    PAD,
    ROLE_TOKENS,
    SPECIAL_TOKENS,
    Mix,
    draw_conversation,
    draw_retrieval,
)

VOCABULARY_SIZE = 1024
CONTEXT_LENGTH = 512
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def training_texts(seed: int, num_documents: int) -> Iterator[str]:
    """Yields the contents of messages of train documents."""
    rng = random.Random(f"tokenizer/{seed}")
    mix = Mix(max_lines=MAX_LINES, retrieval_share=0.0)
    for index in range(num_documents):
        draw = draw_retrieval if index % 5 == 0 else draw_conversation
        for _, content in draw(rng, "train", mix).messages:
            yield content


def train_tokenizer(seed: int, num_documents: int) -> Tokenizer:
    """Returns a tokenizer of ``VOCABULARY_SIZE`` tokens trained on ``num_documents`` documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(" ", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(seed, num_documents), trainer)
    return tokenizer


def tokenizer_config() -> dict[str, object]:
    """Returns the content of tokenizer_config.json; the chat template writes BOS itself, the tokenizer never does."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": list(ROLE_TOKENS.values()),
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT_LENGTH,
        "chat_template": CHAT_TEMPLATE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("src/flyweight/demo_model"), help="folder to write to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--documents", type=int, default=20_000)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    train_tokenizer(arguments.seed, arguments.documents).save(str(arguments.out / "tokenizer.json"))
    (arguments.out / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(), indent=2) + "\n")


if __name__ == "__main__":
    main()
