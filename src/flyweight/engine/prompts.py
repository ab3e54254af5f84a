"""What a prompt may be, and its token ids: a text, a conversation, or ids as they are. It knows no model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flyweight.errors import UsageError
from flyweight.tokenizer import Tokenizer

Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Sequence[Message]


def encode_prompt(tokenizer: Tokenizer | None, prompt: Prompt) -> list[int]:
    """Token ids of text (with BOS where the model wants it), of a conversation, or ids as they are."""
    if isinstance(prompt, str):
        assert tokenizer is not None
        return tokenizer.encode(prompt)
    if is_ids(prompt):
        return [int(index) for index in prompt if not isinstance(index, Mapping)]
    if not all(isinstance(message, Mapping) for message in prompt):
        raise UsageError("a prompt is a string, a list of token ids, or a list of messages with role and content")
    assert tokenizer is not None
    return tokenizer.encode_chat([message for message in prompt if isinstance(message, Mapping)])


def is_ids(prompt: Prompt) -> bool:
    """Whether it is token ids."""
    return not isinstance(prompt, str) and all(isinstance(one, (int, np.integer)) for one in prompt)
