"""What engines are asked to do when they are compared, and the figures that come of it.

All of it is fixed lengths, random token ids, greedy choice, no stopping at an end-of-text token. Token counts are the
numbers of ids asked for, never chunks of a stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flyweight.errors import UsageError, nearest

LEAST_TOKEN_ID = 1000  # special tokens of many vocabularies lie below
SHORT_PROMPT = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure's unit, and whether more of it is better."""

    unit: str
    more_is_better: bool


FIGURES: Mapping[str, Figure] = {
    "prefill": Figure(unit="tokens/s", more_is_better=True),
    "decode": Figure(unit="tokens/s", more_is_better=True),
    "output": Figure(unit="tokens/s", more_is_better=True),
    "mean TTFT": Figure(unit="s", more_is_better=False),
    "worst TTFT": Figure(unit="s", more_is_better=False),
    "mean TPOT": Figure(unit="s", more_is_better=False),
    "start": Figure(unit="s", more_is_better=False),
    "peak memory": Figure(unit="bytes", more_is_better=False),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class OneStream:
    """One stream after ``depth`` tokens that are in the cache already: ``prefill`` more tokens, then separately
    ``decode`` tokens one by one (0: not measured)."""

    name: str
    depth: int
    prefill: int
    decode: int

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, prompt and answer together."""
        return self.depth + max(self.prefill + 1, SHORT_PROMPT + self.decode + 1)

    @property
    def cache_tokens(self) -> int:
        """Tokens that the cache must hold; the prefix and two measured continuations of it."""
        return self.depth + 2 * (self.prefill + self.decode + SHORT_PROMPT) + 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ManyStreams:
    """``count`` requests at once, each ``prompt`` tokens in and ``output`` tokens out."""

    name: str
    count: int
    prompt: int
    output: int

    @property
    def longest(self) -> int:
        return self.prompt + self.output

    @property
    def cache_tokens(self) -> int:
        return self.count * (self.prompt + self.output + 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """From the start of the process to the first token of a short prompt, the files being in the page cache."""

    name: str

    @property
    def longest(self) -> int:
        return SHORT_PROMPT + 1

    @property
    def cache_tokens(self) -> int:
        return 1024


Task = OneStream | ManyStreams | Start
TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        OneStream(name="depth-0", depth=0, prefill=512, decode=64),
        OneStream(name="depth-4096", depth=4096, prefill=512, decode=64),
        OneStream(name="depth-32768", depth=32768, prefill=0, decode=32),
        ManyStreams(name="streams-8", count=8, prompt=256, output=64),
        ManyStreams(name="streams-16", count=16, prompt=256, output=64),
        Start(name="start"),
    )
}
USUAL_TASKS = ("depth-0", "depth-4096", "streams-8", "streams-16", "start")


def find_task(name: str) -> Task:
    """The task of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}; known: {', '.join(TASKS)}{nearest(name, TASKS)}")
    return TASKS[name]


class Prompts:
    """Random prompts, new ones at each call, so that a prefix cache finds nothing but what it is meant to find."""

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        self._low, self._high = min(LEAST_TOKEN_ID, vocab_size // 2), vocab_size
        self._generator = np.random.default_rng(seed)

    def draw(self, length: int) -> list[int]:
        """Token ids; the upper ends of vocabularies, where special tokens lie as well, are left out."""
        top = self._high - (self._high - self._low) // 16
        return [int(one) for one in self._generator.integers(self._low, top, length)]


def prefill_figures(tokens: int, first_token: float) -> dict[str, float]:
    """From the seconds until the first token after ``tokens`` new prompt tokens."""
    return {"prefill": tokens / first_token}


def decode_figures(times: Sequence[float]) -> dict[str, float]:
    """From the moments of one stream's tokens; the first one belongs to the prompt."""
    return {"decode": (len(times) - 1) / (times[-1] - times[0])}


def stream_figures(times: Sequence[Sequence[float]]) -> dict[str, float]:
    """From the seconds since the requests at which each stream's tokens came (two tokens or more each)."""
    firsts = [one[0] for one in times]
    paces = [(one[-1] - one[0]) / (len(one) - 1) for one in times]
    return {
        "output": sum(len(one) for one in times) / max(one[-1] for one in times),
        "mean TTFT": sum(firsts) / len(firsts),
        "worst TTFT": max(firsts),
        "mean TPOT": sum(paces) / len(paces),
    }
