"""/v1/messages and /v1/messages/count_tokens: conversations in the form of Anthropic's API."""

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from flyweight.engine.generation import Completion
from flyweight.serving.answers import Answers
from flyweight.serving.api_errors import ApiError
from flyweight.serving.asks import Ask
from flyweight.serving.http.answers import json_answer
from flyweight.serving.http.bodies import read_body
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.routes.generation import UsageCount, new_id
from flyweight.serving.http.sse import EventStream, event
from flyweight.serving.http.state import owner_of, request_id_of, state_of
from flyweight.serving.http.waiting import unless_left
from flyweight.serving.protocol.messages import STOP_REASONS, CountBody, MessagesBody
from flyweight.serving.protocol.schemas import INTEGER, OPTIONAL_TEXT, TEXT, listed, record, schema_of


async def messages(request: Request) -> ASGIApp:
    """Answer a conversation."""
    body, warnings = await read_body(request, MessagesBody)
    state = state_of(request)
    service = state.service(body.model)
    ask = Ask(
        request_id=request_id_of(request),
        owner=owner_of(request),
        prompts=(body.conversation(),),
        options=body.sampling_options(),
        max_tokens=body.max_tokens,
        streams=bool(body.stream),
    )
    answers = await unless_left(request, service.answer(ask))
    reply = MessageReply(service.name, answers, hides_cached=state.options.hide_cached_tokens, warnings=warnings)
    if body.stream:
        return EventStream(
            reply.events(), comment_seconds=state.limits.comment_seconds, reader_seconds=state.limits.reader_seconds
        )
    try:
        return json_answer(await unless_left(request, reply.whole()))
    finally:
        answers.abort()


async def count_tokens(request: Request) -> Response:
    """How many tokens a conversation is."""
    body, warnings = await read_body(request, CountBody)
    _, ids = await state_of(request).service(body.model).encode(body.conversation())
    found: dict[str, Any] = {"input_tokens": len(ids)}
    return json_answer({**found, "warnings": warnings} if warnings else found)


class MessageReply:
    """Writes one answer as Anthropic's API has it."""

    def __init__(self, model: str, answers: Answers, *, hides_cached: bool, warnings: list[str]) -> None:
        self._answers = answers
        self._usage = UsageCount(answers, hides_cached=hides_cached)
        self._message: dict[str, Any] = {
            "id": new_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        if warnings:
            self._message["warnings"] = warnings

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        (piece,) = await self._answers.all()
        self._usage.add(piece)
        assert piece.completion is not None
        return {
            **self._message,
            **_ending(piece.completion),
            "content": [{"type": "text", "text": piece.completion.text}],
            "usage": self._usage.to_messages(),
        }

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events of a stream, in the order that Anthropic's clients expect."""
        try:
            yield _event("message_start", message={**self._message, "usage": self._usage.to_messages()})
            yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
            async for piece in self._answers:
                self._usage.add(piece)
                if piece.text:
                    yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece.text})
                if piece.completion is not None:
                    yield _event("content_block_stop", index=0)
                    yield _event("message_delta", delta=_ending(piece.completion), usage=self._usage.to_messages())
            yield _event("message_stop")
        except ApiError as error:
            yield event(error.body(), "error")
        finally:
            self._answers.abort()


def _event(name: str, **content: object) -> bytes:
    return event({"type": name, **content}, name)


def _ending(completion: Completion) -> dict[str, Any]:
    if completion.stop_string is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": completion.stop_string}
    return {"stop_reason": STOP_REASONS[completion.finish_reason], "stop_sequence": None}


MESSAGE = record(
    optional=("warnings",),
    id=TEXT,
    type={"const": "message"},
    role={"const": "assistant"},
    model=TEXT,
    content=listed({"type": "object"}),
    stop_reason=OPTIONAL_TEXT,
    stop_sequence=OPTIONAL_TEXT,
    usage={"type": "object"},
    warnings=listed(TEXT),
)

OPERATIONS = [
    Operation(
        method="POST",
        path="/v1/messages",
        handler=messages,
        summary="Answers in a conversation, in the form of Anthropic's API",
        body=schema_of(MessagesBody),
        answer=MESSAGE,
        streams=True,
        statuses=(404, 503),
    ),
    Operation(
        method="POST",
        path="/v1/messages/count_tokens",
        handler=count_tokens,
        summary="How many tokens a conversation is",
        body=schema_of(CountBody),
        answer=record(input_tokens=INTEGER),
        statuses=(404,),
    ),
]
