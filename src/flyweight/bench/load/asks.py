"""What one request asks: a prompt and a number of tokens, and how that is written as a body of either endpoint."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Endpoint = Literal["completions", "chat"]
PATHS: Mapping[Endpoint, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One of ``prompt`` (text or token ids) and ``messages``. ``input_tokens`` is the length that was wanted, None
    where the prompt was given; ``output_tokens`` is asked for as ``max_tokens``."""

    output_tokens: int
    prompt: str | tuple[int, ...] = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    input_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BodyWriter:
    """Writes bodies. ``usage`` and ``continuous_usage`` say what the server was found to know of ``stream_options``."""

    model: str
    endpoint: Endpoint
    temperature: float
    ignore_eos: bool
    extra: Mapping[str, Any]
    usage: bool = True
    continuous_usage: bool = True

    def body(self, ask: Ask) -> bytes:
        """The JSON of a streamed request."""
        body: dict[str, Any] = {"model": self.model}
        if self.endpoint == "chat":
            body["messages"] = list(ask.messages) or [{"role": "user", "content": ask.prompt}]
        else:
            body["prompt"] = list(ask.prompt) if isinstance(ask.prompt, tuple) else ask.prompt
        body |= {"max_tokens": ask.output_tokens, "temperature": self.temperature, "stream": True}
        if self.usage:
            body["stream_options"] = {"include_usage": True}
            if self.continuous_usage:
                body["stream_options"]["continuous_usage_stats"] = True
        if self.ignore_eos:
            body["ignore_eos"] = True
        body |= self.extra
        return json.dumps(body).encode()

    def without(self, *, usage: bool) -> "BodyWriter":
        """The same for a server that refuses ``continuous_usage_stats``, or without ``usage`` all stream options."""
        return replace(self, usage=usage, continuous_usage=False)
