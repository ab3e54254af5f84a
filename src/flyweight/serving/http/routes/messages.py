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
from flyweight.serving.calls import Calling, read_calling
from flyweight.serving.http.answers import json_answer
from flyweight.serving.http.bodies import read_body
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.routes.generation import UsageCount, new_id, send_reply
from flyweight.serving.http.sse import event
from flyweight.serving.http.state import owner_of, request_id_of, state_of
from flyweight.serving.http.waiting import unless_left
from flyweight.serving.protocol.messages import STOP_REASONS, CountBody, MessagesBody, call_block
from flyweight.serving.protocol.schemas import INTEGER, OPTIONAL_TEXT, TEXT, listed, record, schema_of
from flyweight.serving.service import ModelService
from flyweight.serving.tools.deltas import ContentDelta, Delta


async def messages(request: Request) -> ASGIApp:
    """Answer a conversation."""
    body, warnings = await read_body(request, MessagesBody)
    state = state_of(request)
    service = state.service(body.model)
    calling = _calling(service, body)
    ask = Ask(
        request_id=request_id_of(request),
        owner=owner_of(request),
        prompts=(calling.put_into(body.conversation()),),
        options=body.sampling_options(),
        max_tokens=body.max_tokens,
        streams=bool(body.stream),
        constraint=calling.constraint,
        shown_tokens=calling.marks,
    )
    answers = await unless_left(request, service.answer(ask))
    reply = MessageReply(
        service.name, answers, calling, hides_cached=state.options.hide_cached_tokens, warnings=warnings
    )
    return await send_reply(request, answers, reply, streams=body.stream)


async def count_tokens(request: Request) -> Response:
    """How many tokens a conversation is."""
    body, warnings = await read_body(request, CountBody)
    service = state_of(request).service(body.model)
    _, ids = await service.encode(_calling(service, body).put_into(body.conversation()))
    found: dict[str, Any] = {"input_tokens": len(ids)}
    return json_answer({**found, "warnings": warnings} if warnings else found)


def _calling(service: ModelService, body: CountBody) -> Calling:
    """What the request's tools ask for."""
    choice = body.tool_choice
    return read_calling(
        service.tool_format,
        special_id=service.tokens.special_id,
        tools=body.functions,
        choice=None if choice is None else choice.to_choice(),
        parallel=choice is None or not choice.disable_parallel_tool_use,
        constraint=None,
    )


class MessageReply:
    """Writes one answer as Anthropic's API has it."""

    def __init__(
        self, model: str, answers: Answers, calling: Calling, *, hides_cached: bool, warnings: list[str]
    ) -> None:
        self._answers = answers
        self._reader = calling.reader()
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
        text, calls = self._reader.whole(piece.completion.text)
        blocks = [{"type": "text", "text": text}] if text or not calls else []
        return {
            **self._message,
            **_ending(piece.completion, has_calls=bool(calls)),
            "content": [*blocks, *(call_block(one.id, one.name, one.arguments) for one in calls)],
            "usage": self._usage.to_messages(),
        }

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events of a stream, in the order that Anthropic's clients expect."""
        blocks = BlockEvents()
        try:
            yield _event("message_start", message={**self._message, "usage": self._usage.to_messages()})
            async for piece in self._answers:
                self._usage.add(piece)
                for delta in self._reader.read(piece.text, is_last=piece.completion is not None):
                    for written in blocks.add(delta):
                        yield written
                if piece.completion is not None:
                    for written in blocks.end():
                        yield written
                    ending = _ending(piece.completion, has_calls=self._reader.has_calls)
                    yield _event("message_delta", delta=ending, usage=self._usage.to_messages())
            yield _event("message_stop")
        except ApiError as error:
            yield event(error.body(), "error")


class BlockEvents:
    """Deltas of an answer as events of numbered blocks: one of text, one for each call."""

    def __init__(self) -> None:
        self._number = -1
        self._kind: int | None = None  # of the open block: -1 text, else the number of a call

    def add(self, delta: Delta) -> list[bytes]:
        """What a delta is told as."""
        if isinstance(delta, ContentDelta):
            begun = self._open(-1, {"type": "text", "text": ""})
            return [*begun, self._delta({"type": "text_delta", "text": delta.text})]
        block: dict[str, Any] = {"type": "tool_use", "id": delta.id, "name": delta.name, "input": {}}
        begun = self._open(delta.index, block)
        if not delta.arguments:
            return begun
        return [*begun, self._delta({"type": "input_json_delta", "partial_json": delta.arguments})]

    def end(self) -> list[bytes]:
        """The end of the last block; an answer without text has an empty one."""
        begun = self._open(-1, {"type": "text", "text": ""}) if self._kind is None else []
        return [*begun, _event("content_block_stop", index=self._number)]

    def _open(self, kind: int, block: dict[str, Any]) -> list[bytes]:
        if self._kind == kind:
            return []
        found = [] if self._kind is None else [_event("content_block_stop", index=self._number)]
        self._kind = kind
        self._number += 1
        return [*found, _event("content_block_start", index=self._number, content_block=block)]

    def _delta(self, delta: dict[str, str]) -> bytes:
        return _event("content_block_delta", index=self._number, delta=delta)


def _event(name: str, **content: object) -> bytes:
    return event({"type": name, **content}, name)


def _ending(completion: Completion, *, has_calls: bool) -> dict[str, Any]:
    if has_calls and completion.finish_reason == "stop":
        return {"stop_reason": "tool_use", "stop_sequence": None}
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
