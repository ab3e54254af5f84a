"""Log probabilities as OpenAI's two APIs write them."""

from collections.abc import Callable, Sequence
from typing import Any

from flyweight.engine.sampling import TokenLogProbability

TokenText = Callable[[int], str]
LOWEST = -9999.0  # JSON has no infinity; OpenAI writes this number


def chat_log_probabilities(found: Sequence[TokenLogProbability], token: TokenText) -> dict[str, Any]:
    """The ``logprobs`` of a choice of /v1/chat/completions.

    Args:
        token: the text of a token.
    """
    return {
        "content": [
            {
                **_entry(one.token, one.log_probability, token),
                "top_logprobs": [_entry(name, value, token) for name, value in one.top],
            }
            for one in found
        ]
    }


def text_log_probabilities(
    found: Sequence[TokenLogProbability | int], token: TokenText, *, offset: int, listed: int
) -> dict[str, Any]:
    """The ``logprobs`` of a choice of /v1/completions.

    Args:
        found: an int is a token without a probability: the first of a prompt.
        offset: characters of the text before the first token.
        listed: most likely tokens in each place; the token itself is always among them.
    """
    tokens: list[str] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for one in found:
        text = token(one if isinstance(one, int) else one.token)
        tokens.append(text)
        offsets.append(offset)
        offset += len(text)
        if isinstance(one, int):
            values.append(None)
            tops.append(None)
            continue
        values.append(finite(one.log_probability))
        top = {token(name): finite(value) for name, value in reversed(one.top[:listed])}
        tops.append({**top, text: finite(one.log_probability)})
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def prompt_log_probabilities(
    found: Sequence[TokenLogProbability], token: TokenText, *, listed: int
) -> list[dict[str, dict[str, Any]] | None]:
    """The ``prompt_logprobs`` of vLLM's API: for each token of a prompt the most likely in its place and itself, by id;
    None for the first, which nothing comes before. The rank of a token that is not among the most likely is not known.

    Args:
        listed: most likely tokens in each place.
    """
    written: list[dict[str, dict[str, Any]] | None] = [None]
    for one in found:
        values: dict[int, tuple[float, int | None]] = {}
        for rank, (name, value) in enumerate(one.top[:listed], 1):
            values[name] = value, rank
        own = next((rank for rank, (name, _) in enumerate(one.top, 1) if name == one.token), None)
        values.setdefault(one.token, (one.log_probability, own))
        written.append(
            {
                str(name): {"logprob": finite(value), "rank": rank, "decoded_token": token(name)}
                for name, (value, rank) in values.items()
            }
        )
    return written


def finite(value: float) -> float:
    """A log probability as JSON can hold it."""
    return value if value > LOWEST else LOWEST


def _entry(name: int, value: float, token: TokenText) -> dict[str, Any]:
    text = token(name)
    # A token that is part of a character has no text of its own.
    return {
        "token": text,
        "logprob": finite(value),
        "bytes": None if "\ufffd" in text else list(text.encode("utf-8", "replace")),
    }
