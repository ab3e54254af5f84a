"""Tokens as clients see them one by one: for log probabilities, echoes and /tokenize."""

from collections.abc import Sequence

from flyweight.engine.language_model import LanguageModel
from flyweight.tokenizer import REPLACEMENT


class TokenText:
    """The tokens of one model."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def of(self, ids: Sequence[int]) -> str:
        """Ids as text, special tokens included."""
        return self._model.tokenizer.decode(ids, skip_special_tokens=False)

    def label(self, token: int) -> str:
        """A token's text, or its spelling in the vocabulary where it is only part of a character."""
        text = self._model.token_text(token)
        if REPLACEMENT not in text:
            return text
        return self._model.tokenizer.token(token) or text

    def special_id(self, token: str) -> int | None:
        """The id of a special token; None for one that is none."""
        return self._model.tokenizer.special_token_id(token)
