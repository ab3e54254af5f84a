"""How many random words make how many tokens, for whichever server is asked.

With a tokenizer the words are cut to the very number. Without one the server says how many tokens the list of words
and its halves have (``/tokenize``, else the ``usage`` of requests for one token), which tells a word's mean and what
every prompt has besides.
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

FEWER_WORDS = 48  # where the whole list does not fit into the context


class TextMaker(Protocol):
    """Makes random text of a wanted number of tokens. ``source`` says how it knows."""

    @property
    def source(self) -> str: ...

    def text(self, tokens: int, generator: np.random.Generator) -> str: ...


def random_words(count: int, generator: np.random.Generator, words: Sequence[str] = WORDS) -> list[str]:
    """Words drawn independently."""
    return [words[place] for place in generator.integers(0, len(words), count)]


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
    """Takes as many of the ``words`` as make the tokens on average: tokens = ``fixed`` + ``per_word`` * words."""

    fixed: float
    per_word: float
    words: Sequence[str]
    source: str

    @classmethod
    def of_probes(cls, first: int, second: int, both: int, words: Sequence[str], source: str) -> Self:
        """From the tokens of the words' first half, second half and whole: what every prompt has besides its words is
        counted twice in the first two and once in the last.

        Raises:
            UsageError: the counts do not grow with the words.
        """
        fixed = first + second - both
        if both - fixed < 0.1 * len(words):
            raise UsageError(
                f"the server's {source} tells {first}, {second} and {both} tokens for halves and whole of {len(words)} "
                f"words; give --tokenizer with the folder of its tokenizer"
            )
        return cls(fixed=float(fixed), per_word=(both - fixed) / len(words), words=words, source=source)

    def text(self, tokens: int, generator: np.random.Generator) -> str:
        return " ".join(random_words(max(1, round((tokens - self.fixed) / self.per_word)), generator, self.words))


async def ask_server(http: HttpClient, writer: BodyWriter) -> ByWords:
    """Calibrate by the server.

    Raises:
        UsageError: it tells no counts.
        StreamError, OSError: it does not answer.
    """
    for words in (WORDS, WORDS[:FEWER_WORDS]):
        middle = len(words) // 2
        texts = [" ".join(part) for part in (words[:middle], words[middle:], words)]
        for source, ask in (("/tokenize", _by_tokenize), ("usage", _by_usage)):
            counts = [await ask(http, writer, text) for text in texts]
            known = [one for one in counts if one is not None]
            if len(known) == 3:
                return ByWords.of_probes(known[0], known[1], known[2], words, source)
    raise UsageError(
        "the server tells no prompt lengths, neither by /tokenize nor by usage; give --tokenizer with the folder of "
        "its tokenizer, or prompts of your own with --prompts file"
    )


async def _by_tokenize(http: HttpClient, writer: BodyWriter, text: str) -> int | None:
    """By the route that vLLM, llama.cpp and this package have; it does not know what a chat template adds."""
    if writer.endpoint != "completions":
        return None
    status, answer = await http.post("/tokenize", json.dumps({"model": writer.model, "prompt": text}).encode())
    return _count(answer) if status == 200 else None


async def _by_usage(http: HttpClient, writer: BodyWriter, text: str) -> int | None:
    body = json.loads(writer.body(Ask(prompt=text, output_tokens=1)))
    body.pop("stream_options", None)
    status, answer = await http.post(PATHS[writer.endpoint], json.dumps({**body, "stream": False}).encode())
    return _prompt_tokens(answer) if status == 200 else None


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
