"""/v1/chat/completions: answers in a conversation, whole or as a stream."""

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from flyweight.engine.generation import Completion
from flyweight.engine.log_probabilities import chat_log_probabilities, prompt_log_probabilities
from flyweight.serving.answers import AnswerPiece, Answers
from flyweight.serving.asks import Ask
from flyweight.serving.calls import Calling, read_calling
from flyweight.serving.http.bodies import read_body
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.routes.generation import UsageCount, closed_by_done, new_id, now, send_reply, stop_reason
from flyweight.serving.http.sse import event
from flyweight.serving.http.state import owner_of, request_id_of, state_of
from flyweight.serving.http.waiting import unless_left
from flyweight.serving.protocol.chat import ChatBody
from flyweight.serving.protocol.schemas import CHAT_COMPLETION, schema_of
from flyweight.serving.protocol.structure import read_constraint
from flyweight.serving.service import ModelService
from flyweight.serving.tools.deltas import ContentDelta, Delta


async def chat_completions(request: Request) -> ASGIApp:
    """Answer a conversation."""
    body, warnings = await read_body(request, ChatBody)
    state = state_of(request)
    service = state.service(body.model)
    body.check_stream_options()
    calling = read_calling(
        service.tool_format,
        special_id=service.tokens.special_id,
        tools=body.tools,
        choice=body.tool_choice,
        parallel=body.parallel_tool_calls,
        constraint=read_constraint(body.response_format, body.structured_outputs),
    )
    ask = Ask(
        request_id=request_id_of(request),
        owner=owner_of(request),
        prompts=(calling.put_into(body.conversation()),),
        options=body.sampling_options(max_tokens=body.length, logprobs=body.listed),
        max_tokens=body.length,
        samples=body.n or 1,
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
        prompt_logprobs=body.prompt_logprobs,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        streams=bool(body.stream),
        constraint=calling.constraint,
        shown_tokens=calling.marks,
    )
    answers = await unless_left(request, service.answer(ask))
    reply = ChatReply(service, body, answers, calling, hides_cached=state.options.hide_cached_tokens, warnings=warnings)
    return await send_reply(request, answers, reply, streams=body.stream)


class ChatReply:
    """Writes the answers to one request as OpenAI's API has them. Built by hand: this runs for every token."""

    def __init__(
        self,
        service: ModelService,
        body: ChatBody,
        answers: Answers,
        calling: Calling,
        *,
        hides_cached: bool,
        warnings: list[str],
    ) -> None:
        self._service = service
        self._body = body
        self._answers = answers
        self._readers = [calling.reader() for _ in range(answers.count)]
        self._usage = UsageCount(answers, hides_cached=hides_cached)
        self._warnings = warnings
        self._head: dict[str, Any] = {"id": new_id("chatcmpl"), "created": now(), "model": service.name}

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        pieces = await self._answers.all()
        for piece in pieces:
            self._usage.add(piece)
        found = {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choice(piece) for piece in pieces],
            "usage": self._usage.to_dict(),
        }
        if self._body.prompt_logprobs is not None:
            found["prompt_logprobs"] = prompt_log_probabilities(
                pieces[0].prompt_log_probabilities, self._service.tokens.label, listed=self._body.prompt_logprobs
            )
        if self._body.return_token_ids:
            found["prompt_token_ids"] = self._answers.prompts[0]
        return {**found, "warnings": self._warnings} if self._warnings else found

    def events(self) -> AsyncGenerator[bytes, None]:
        """The events of a stream."""
        return closed_by_done(self._chunks())

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        options = self._body.stream_options
        counts_all = options is not None and bool(options.continuous_usage_stats)
        head: dict[str, Any] = {**self._head, "object": "chat.completion.chunk"}
        first = {**head, "warnings": self._warnings} if self._warnings else head
        for index in range(self._answers.count):
            delta = {"role": "assistant", "content": ""}
            yield event({**first, "choices": [self._delta(index, delta)]})
        async for piece in self._answers:
            self._usage.add(piece)
            for choice in self._choices(piece):
                chunk = {**head, "choices": [choice]}
                if counts_all:
                    chunk["usage"] = self._usage.to_dict()
                yield event(chunk)
        if options is not None and options.include_usage:
            yield event({**head, "choices": [], "usage": self._usage.to_dict()})

    def _choice(self, piece: AnswerPiece) -> dict[str, Any]:
        """A complete answer."""
        completion = piece.completion
        assert completion is not None
        text, calls = self._readers[piece.index].whole(completion.text)
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
        if calls:
            message["tool_calls"] = [
                {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
                for one in calls
            ]
        choice: dict[str, Any] = {
            "index": piece.index,
            "message": message,
            "logprobs": self._log_probabilities(piece),
            **self._ending(completion, has_calls=bool(calls)),
        }
        if self._body.return_token_ids:
            choice["token_ids"] = list(completion.token_ids)
        return choice

    def _choices(self, piece: AnswerPiece) -> list[dict[str, Any]]:
        """What a piece brings, one delta after another; log probabilities and the end come with the last of them."""
        reader, completion = self._readers[piece.index], piece.completion
        deltas = [_delta(one) for one in reader.read(piece.text, is_last=completion is not None)]
        found = [self._delta(piece.index, one) for one in deltas or [{}]]
        found[-1]["logprobs"] = self._log_probabilities(piece)
        if completion is not None:
            found[-1].update(self._ending(completion, has_calls=reader.has_calls))
        if self._body.return_token_ids:
            found[-1]["token_ids"] = piece.token_ids
        return found

    def _ending(self, completion: Completion, *, has_calls: bool) -> dict[str, Any]:
        reason: str = completion.finish_reason
        return {
            "finish_reason": "tool_calls" if has_calls and reason == "stop" else reason,
            "stop_reason": stop_reason(completion, self._service.model.stop_ids),
        }

    def _delta(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _log_probabilities(self, piece: AnswerPiece) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        return chat_log_probabilities(piece.log_probabilities, self._service.tokens.label)


def _delta(one: Delta) -> dict[str, Any]:
    """News of an answer's text, or of a call in it, as a stream has it."""
    if isinstance(one, ContentDelta):
        return {"content": one.text}
    call: dict[str, Any] = {"index": one.index, "function": {"arguments": one.arguments}}
    if one.id is not None:
        call = {
            "index": one.index,
            "id": one.id,
            "type": "function",
            "function": {"name": one.name, "arguments": one.arguments},
        }
    return {"tool_calls": [call]}


OPERATIONS = [
    Operation(
        method="POST",
        path="/v1/chat/completions",
        handler=chat_completions,
        summary="Answers in a conversation",
        body=schema_of(ChatBody),
        answer=CHAT_COMPLETION,
        streams=True,
        statuses=(404, 503),
    ),
]
