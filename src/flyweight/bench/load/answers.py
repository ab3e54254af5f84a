"""The events of a streamed answer in OpenAI's form, read into a request's record.

Tokens are those that ``usage`` tells: at the end, or with every event where the server follows
``continuous_usage_stats``. Text that a reasoning model thinks, and arguments of tool calls, are tokens as well.
"""

import json
from collections.abc import Callable
from typing import Any

from flyweight.bench.load.recording import RequestRecord, share_tokens

DONE = b"[DONE]"
TEXT_FIELDS = ("content", "reasoning_content", "reasoning", "refusal")


class AnswerReader:
    """Reads one answer. ``text`` is all text that came."""

    def __init__(self, record: RequestRecord) -> None:
        self._record = record
        self._characters: list[int] = []
        self._texts: list[str] = []
        self._told = 0
        self._continuous = False
        self.done = False

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def read(self, now: float, data: bytes) -> None:
        """One event."""
        if data.strip() == DONE:
            self.done = True
            return
        try:
            event = json.loads(data)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            self._record.fail("stream", f"an event is no JSON object: {data[:80].decode(errors='replace')!r}")
            return
        if event.get("error") is not None:
            self._record.fail("stream", f"error in the stream: {error_text(event)}")
            return
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
        new_tokens = self._read_usage(event.get("usage"), with_choice=choice is not None)
        if choice is not None:
            self._read_choice(now, choice, new_tokens)

    def finish(self, count: Callable[[str], int] | None) -> None:
        """The answer is over; ``count`` tells the tokens of a text where the server did not."""
        record = self._record
        if not record.failure and not self.done and not record.finish_reason:
            record.fail("stream", "the stream ended without [DONE] and without a finish reason")
        counter = None if count is None else lambda: count(self.text)
        share_tokens(record, self._characters, reported=self._continuous, count=counter)

    def _read_usage(self, usage: Any, *, with_choice: bool) -> int | None:
        """Tokens that came with this event, where the server says so."""
        if not isinstance(usage, dict):
            return None
        record = self._record
        record.input_tokens = whole(usage.get("prompt_tokens"), record.input_tokens)
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict):
            record.cached_tokens = whole(details.get("cached_tokens"), record.cached_tokens)
        total = whole(usage.get("completion_tokens"), None)
        if total is None:
            return None
        record.output_tokens = total
        if not with_choice:
            return None
        new, self._told = total - self._told, total
        return new

    def _read_choice(self, now: float, choice: dict[str, Any], new_tokens: int | None) -> None:
        record = self._record
        text = choice_text(choice)
        reason = choice.get("finish_reason")
        # A usage that comes for the first time with the last event is the sum, not this event's tokens.
        if new_tokens is not None and not (reason is not None and record.event_times and not self._continuous):
            self._continuous = True
        if text or (self._continuous and new_tokens):
            record.first_token = now if record.first_token is None else record.first_token
            record.event_times.append(now)
            record.event_tokens.append(float(new_tokens or 0))
            self._characters.append(len(text))
            self._texts.append(text)
            record.last_token = now
        if isinstance(reason, str):
            record.finish_reason, record.last_token = reason, now


def choice_text(choice: dict[str, Any]) -> str:
    """The text of a choice of either endpoint."""
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        text = choice.get("text")
        return text if isinstance(text, str) else ""
    parts = [delta[name] for name in TEXT_FIELDS if isinstance(delta.get(name), str)]
    for call in delta.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            parts += [function[name] for name in ("name", "arguments") if isinstance(function.get(name), str)]
    return "".join(parts)


def error_text(answer: Any) -> str:
    """The message of an error in any of the forms that servers use; at most 300 characters."""
    error = answer.get("error", answer.get("detail", answer)) if isinstance(answer, dict) else answer
    if isinstance(error, dict):
        error = error.get("message", error)
    return " ".join(str(error).split())[:300]


def whole(value: Any, otherwise: int | None) -> int | None:
    """``value`` where it is a count, else ``otherwise``."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise
