"""What a prompt may be, its token ids, and how many of them are kept where a request has it cut.

It knows no model.
"""

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


def check_truncation(wanted: int | None) -> None:
    """Raise UsageError where ``truncate_prompt_tokens`` is no number of tokens, nor -1 or None."""
    if wanted is None:
        return
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not (wanted == -1 or 1 <= wanted < 2**31):
        raise UsageError(
            f"truncate_prompt_tokens={wanted!r} is not possible; choose 1 or more, or -1 for what leaves room for the "
            "answer"
        )


def tokens_kept(wanted: int | None, *, context_length: int, max_tokens: int) -> int | None:
    """How many of a prompt's last tokens are kept; None for all.

    Args:
        wanted: what ``truncate_prompt_tokens`` says; -1 for as many as leave room for ``max_tokens`` more, but one at
            least.
    """
    return max(1, context_length - max_tokens) if wanted == -1 else wanted


def is_ids(prompt: Prompt) -> bool:
    """Whether it is token ids."""
    return not isinstance(prompt, str) and all(isinstance(one, (int, np.integer)) for one in prompt)
