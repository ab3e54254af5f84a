"""How many random words make how many tokens, for whichever server is asked.

With a tokenizer the words are cut to the very number. Without one the server says how many tokens some probes have
(``/tokenize``, else the ``usage`` of requests for one token), and a line through them says how many words to take.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from flyweight.bench.load.answers import whole
from flyweight.bench.load.asks import PATHS, Ask, BodyWriter
from flyweight.bench.load.http_client import HttpClient
from flyweight.bench.load.words import WORDS
from flyweight.errors import UsageError
from flyweight.tokenizer import Tokenizer

PROBES = (32, 64, 128)  # words


class TextMaker(Protocol):
    """Makes random text of a wanted number of tokens. ``source`` says how it knows."""

    @property
    def source(self) -> str: ...

    def text(self, tokens: int, generator: np.random.Generator) -> str: ...


def random_words(count: int, generator: np.random.Generator) -> list[str]:
    """Words drawn independently."""
    return [WORDS[place] for place in generator.integers(0, len(WORDS), count)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ByTokenizer:
    """Cuts words by the server's own tokenizer. The counts leave out what a template adds around a prompt."""

    tokenizer: Tokenizer
    source: str = "tokenizer"

    def text(self, tokens: int, generator: np.random.Generator) -> str:
        ids: list[int] = []
        text = ""
        while len(ids) < tokens:
            text = " ".join((*([text] if text else []), *random_words(tokens - len(ids), generator)))
            ids = self.tokenizer.encode(text, add_special_tokens=False)
        return self.tokenizer.decode(ids[:tokens]).strip() if len(ids) > tokens else text


@dataclass(frozen=True, kw_only=True, slots=True)
class ByWords:
    """Takes as many words as a line through the probes says: tokens = ``fixed`` + ``per_word`` * words."""

    fixed: float
    per_word: float
    source: str

    @classmethod
    def through(cls, counts: Sequence[tuple[int, int]], source: str) -> Self:
        """The least-squares line through (words, tokens).

        Raises:
            UsageError: the counts do not grow with the words.
        """
        slope, fixed = np.polyfit([words for words, _ in counts], [tokens for _, tokens in counts], 1)
        if slope < 0.1:
            told = ", ".join(f"{tokens} tokens for {words} words" for words, tokens in counts)
            raise UsageError(f"the server's {source} tells {told}; give --tokenizer with the folder of its tokenizer")
        return cls(fixed=float(fixed), per_word=float(slope), source=source)

    def text(self, tokens: int, generator: np.random.Generator) -> str:
        return " ".join(random_words(max(1, round((tokens - self.fixed) / self.per_word)), generator))


async def ask_server(http: HttpClient, writer: BodyWriter, generator: np.random.Generator) -> ByWords:
    """Calibrate by the server.

    Raises:
        UsageError: it tells no counts.
        StreamError, OSError: it does not answer.
    """
    texts = [(words, " ".join(random_words(words, generator))) for words in PROBES]
    counts = []
    if writer.endpoint == "completions":
        for words, text in texts:
            status, answer = await http.post("/tokenize", json.dumps({"model": writer.model, "prompt": text}).encode())
            count = _count(answer) if status == 200 else None
            if count is None:
                break
            counts.append((words, count))
    if len(counts) == len(texts):
        return ByWords.through(counts, "/tokenize")
    counts = []
    for words, text in texts:
        body = json.loads(writer.body(Ask(prompt=text, output_tokens=1)))
        body.pop("stream_options", None)
        status, answer = await http.post(PATHS[writer.endpoint], json.dumps({**body, "stream": False}).encode())
        count = _prompt_tokens(answer) if status == 200 else None
        if count is None:
            raise UsageError(
                "the server tells no prompt lengths, neither by /tokenize nor by usage; give --tokenizer with the "
                "folder of its tokenizer, or prompts of your own with --prompts file"
            )
        counts.append((words, count))
    return ByWords.through(counts, "usage")


def _count(answer: bytes) -> int | None:
    """From vLLM's form ``{"count": ...}`` or llama.cpp's ``{"tokens": [...]}``."""
    found = _object(answer)
    tokens = found.get("tokens")
    return whole(found.get("count"), len(tokens) if isinstance(tokens, list) else None)


def _prompt_tokens(answer: bytes) -> int | None:
    usage = _object(answer).get("usage")
    return whole(usage.get("prompt_tokens"), None) if isinstance(usage, dict) else None


def _object(answer: bytes) -> dict[str, object]:
    try:
        found = json.loads(answer)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
