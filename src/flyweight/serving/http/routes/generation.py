"""What the generating routes share: usage, names of answers, how a reply is sent, and the end of a stream."""

import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from starlette.requests import Request
from starlette.types import ASGIApp

from flyweight.engine.generation import Completion
from flyweight.serving.answers import AnswerPiece, Answers
from flyweight.serving.api_errors import ApiError
from flyweight.serving.http.answers import json_answer
from flyweight.serving.http.sse import DONE, EventStream, event
from flyweight.serving.http.state import state_of
from flyweight.serving.http.waiting import unless_left


def new_id(prefix: str) -> str:
    """A name for an answer, such as ``chatcmpl-...``."""
    return f"{prefix}-{secrets.token_hex(12)}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


class Reply(Protocol):
    """Writes the answers to one request as an API has them, in one of two ways."""

    async def whole(self) -> dict[str, Any]:
        """The body of an answer in one piece."""
        ...

    def events(self) -> AsyncGenerator[bytes, None]:
        """The events of a stream, the last of them that which ends it."""
        ...


async def send_reply(request: Request, answers: Answers, reply: Reply, *, streams: bool | None) -> ASGIApp:
    """The reply as a stream or in one piece. What is still open when it ends, or the client leaves, is given up."""
    if streams:
        limits = state_of(request).limits
        return EventStream(
            reply.events(),
            comment_seconds=limits.comment_seconds,
            reader_seconds=limits.reader_seconds,
            give_up=answers.abort,
        )
    try:
        return json_answer(await unless_left(request, reply.whole()))
    finally:
        answers.abort()


class UsageCount:
    """Counts the tokens of a request as its answers come.

    Args:
        hides_cached: leave out how many tokens of the prompts were found in the cache.
    """

    def __init__(self, answers: Answers, *, hides_cached: bool) -> None:
        self.prompt_tokens = sum(map(len, answers.prompts))
        self.completion_tokens = 0
        self._samples = answers.samples
        self._cached = 0
        self._hides_cached = hides_cached

    def add(self, piece: AnswerPiece) -> None:
        """Count what is new."""
        self.completion_tokens += len(piece.token_ids)
        if piece.completion is not None and piece.index % self._samples == 0:
            self._cached += piece.completion.usage.cached_tokens

    def to_dict(self) -> dict[str, Any]:
        """The ``usage`` object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": None if self._hides_cached else {"cached_tokens": self._cached},
        }

    def to_messages(self) -> dict[str, Any]:
        """The same as Anthropic's API counts: tokens found in the cache are not among the input tokens."""
        cached = 0 if self._hides_cached else self._cached
        return {
            "input_tokens": self.prompt_tokens - cached,
            "output_tokens": self.completion_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
        }

    def to_responses(self) -> dict[str, Any]:
        """The same as the Responses API counts."""
        return {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0 if self._hides_cached else self._cached},
            "output_tokens": self.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


def stop_reason(completion: Completion, eos: frozenset[int]) -> str | int | None:
    """What ended an answer beside the end-of-text token: a stop string, or a stop token."""
    if completion.stop_string is not None:
        return completion.stop_string
    if completion.finish_reason == "stop" and completion.token_ids and completion.token_ids[-1] not in eos:
        return completion.token_ids[-1]
    return None


async def closed_by_done(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Ends a stream with [DONE], before which an error stands where an answer failed."""
    try:
        async for piece in events:
            yield piece
    except ApiError as error:
        yield event(error.body())
    finally:
        await events.aclose()
    yield DONE
