"""How much a server takes: a finite limit for everything that a client can make large, long or many.

The limits of single fields that follow from the API (a temperature, the number of stop strings) stand with the fields.
"""

import math
from dataclasses import dataclass, fields

from flyweight.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLimits:
    """What one client, one request and one connection may take at most.

    Raises:
        UsageError: when a limit is not above 0, or not finite.
    """

    connections: int = 1024
    """Open connections; further ones are answered with 503."""

    header_bytes: int = 32768
    """Bytes of a request's line and headers together."""

    header_count: int = 100
    """Headers of a request."""

    header_seconds: float = 10.0
    """Seconds within which the first request's headers must have come."""

    body_bytes: int = 8_388_608
    """Bytes of a request's body."""

    body_seconds: float = 30.0
    """Seconds within which the whole body must have come."""

    body_nesting: int = 64
    """Depth of objects and lists in a JSON body."""

    keep_alive_seconds: float = 30.0
    """Seconds that an idle connection stays open."""

    answers: int = 64
    """Answers to one request: its prompts times n."""

    answer_tokens: int = 8192
    """Tokens of one answer; also what max_tokens is where a request names none and the context has room."""

    tokenized_characters: int = 1_000_000
    """Characters of a text for /tokenize; prompts are bounded by what the context can hold."""

    queued_requests: int = 256
    """Prompts that wait for the engine, of all keys together; more are refused with 503."""

    queued_tokens: int = 1_048_576
    """Tokens of all prompts that wait."""

    requests_per_key: int = 128
    """Prompts of one key that wait or run; more are refused with 429."""

    tokens_per_key: int = 1_048_576
    """Tokens of one key's prompts that wait or run, with the answers that they may get."""

    queue_seconds: float = 120.0
    """Seconds that a prompt may wait; one that would have to wait longer is refused at once with 503."""

    answer_seconds: float = 1800.0
    """Seconds that an answer may take from its arrival; then it ends with an error."""

    reader_seconds: float = 60.0
    """Seconds that a client may let a stream stand still before it is given up."""

    comment_seconds: float = 15.0
    """Seconds of silence after which a stream gets a comment, so that proxies keep the connection."""

    stall_seconds: float = 120.0
    """Seconds without a step, while work is there, after which /health says that the server is stuck."""

    stored_responses: int = 256
    """Answers of /v1/responses that are kept for those who ask for them again; the oldest give way."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{field.name}={value} is not allowed; choose a finite number above 0")
