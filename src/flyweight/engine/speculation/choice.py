"""How speculation is asked for in words: ``off``, ``prompt-lookup`` or ``draft:PATH``."""

from dataclasses import dataclass
from typing import Literal

from flyweight.errors import UsageError, nearest

OFF, PROMPT_LOOKUP, DRAFT = "off", "prompt-lookup", "draft"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeculationChoice:
    """What guesses, and for ``draft`` the folder or hub id of the draft model."""

    kind: Literal["off", "prompt-lookup", "draft"]
    draft_model: str | None = None

    @classmethod
    def parse(cls, text: str) -> "SpeculationChoice":
        """Read ``off``, ``prompt-lookup`` or ``draft:PATH``.

        Raises:
            UsageError: for anything else.
        """
        if text == OFF:
            return cls(kind="off")
        if text == PROMPT_LOOKUP:
            return cls(kind="prompt-lookup")
        kind, _, path = text.partition(":")
        if kind == DRAFT and path:
            return cls(kind="draft", draft_model=path)
        raise UsageError(
            f"speculate={text!r} is unknown; choose off, prompt-lookup, or draft:PATH with the folder of a smaller "
            f"model{nearest(text, (OFF, PROMPT_LOOKUP))}"
        )
