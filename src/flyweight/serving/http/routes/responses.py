"""/v1/responses: answers that can be kept, asked for again, and gone on from."""

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from flyweight.engine.generation import Completion
from flyweight.serving.answers import AnswerPiece, Answers
from flyweight.serving.api_errors import ApiError
from flyweight.serving.asks import Ask, Conversation
from flyweight.serving.http.answers import dump, json_answer
from flyweight.serving.http.bodies import read_body
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.routes.generation import UsageCount, new_id, now
from flyweight.serving.http.sse import EventStream, event
from flyweight.serving.http.state import ServerState, owner_of, request_id_of, state_of
from flyweight.serving.http.waiting import unless_left
from flyweight.serving.protocol.log_probabilities import chat_log_probabilities
from flyweight.serving.protocol.responses import ResponseBody, with_instructions
from flyweight.serving.protocol.schemas import INTEGER, OPTIONAL_TEXT, TEXT, listed, optional, record, schema_of
from flyweight.serving.service import ModelService
from flyweight.serving.stored_responses import StoredResponse


async def create_response(request: Request) -> ASGIApp:
    """Answer, and keep the answer unless ``store`` is false."""
    body, warnings = await read_body(request, ResponseBody)
    state, owner = state_of(request), owner_of(request)
    service = state.service(body.model)
    messages = [*_earlier(state, owner.name, body.previous_response_id), *body.messages()]
    ask = Ask(
        request_id=request_id_of(request),
        owner=owner,
        prompts=(Conversation(messages=with_instructions(body.instructions, messages)),),
        options=body.sampling_options(),
        max_tokens=body.max_output_tokens,
        streams=bool(body.stream),
    )
    answers = await unless_left(request, service.answer(ask))
    reply = ResponseReply(service, body, answers, state=state, owner=owner.name, messages=messages, warnings=warnings)
    if body.stream:
        return EventStream(
            reply.events(), comment_seconds=state.limits.comment_seconds, reader_seconds=state.limits.reader_seconds
        )
    try:
        return json_answer(await unless_left(request, reply.whole()))
    finally:
        answers.abort()


async def get_response(request: Request) -> Response:
    """A response that was kept."""
    name = request.path_params["id"]
    found = state_of(request).responses.get(owner_of(request).name, name)
    if found is None:
        raise _not_kept(name)
    return json_answer(found.body)


async def delete_response(request: Request) -> Response:
    """Forget a response."""
    name = request.path_params["id"]
    if not state_of(request).responses.remove(owner_of(request).name, name):
        raise _not_kept(name)
    return json_answer({"id": name, "object": "response.deleted", "deleted": True})


def _earlier(state: ServerState, owner: str, name: str | None) -> list[dict[str, Any]]:
    """The conversation that a request goes on from."""
    if name is None:
        return []
    found = state.responses.get(owner, name)
    if found is None:
        raise _not_kept(name, param="previous_response_id")
    return found.messages


def _not_kept(name: str, param: str | None = None) -> ApiError:
    return ApiError(
        404, f"the response {name!r} is not kept here: it never was, or gave way to later ones", param=param
    )


class ResponseReply:
    """Writes one answer as the Responses API has it."""

    def __init__(
        self,
        service: ModelService,
        body: ResponseBody,
        answers: Answers,
        *,
        state: ServerState,
        owner: str,
        messages: list[dict[str, Any]],
        warnings: list[str],
    ) -> None:
        self._service = service
        self._body = body
        self._answers = answers
        self._state = state
        self._owner = owner
        self._messages = messages
        self._warnings = warnings
        self._usage = UsageCount(answers, hides_cached=state.options.hide_cached_tokens)
        self._id, self._message_id = new_id("resp"), new_id("msg")
        self._created = now()
        self._number = 0

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        (piece,) = await self._answers.all()
        self._usage.add(piece)
        assert piece.completion is not None
        return self._finish(piece.completion, self._log_probabilities(piece))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events of a stream, each with its number."""
        place = {"item_id": self._message_id, "output_index": 0, "content_index": 0}
        found: list[dict[str, Any]] = []
        try:
            yield self._event("response.created", response=self._response("in_progress", []))
            yield self._event("response.in_progress", response=self._response("in_progress", []))
            yield self._event("response.output_item.added", output_index=0, item=self._item("in_progress", []))
            yield self._event("response.content_part.added", **place, part=_part("", []))
            async for piece in self._answers:
                self._usage.add(piece)
                fresh = self._log_probabilities(piece)
                found += fresh
                if piece.text:
                    yield self._event("response.output_text.delta", **place, delta=piece.text, logprobs=fresh)
                if piece.completion is None:
                    continue
                text, response = piece.completion.text, self._finish(piece.completion, found)
                yield self._event("response.output_text.done", **place, text=text, logprobs=found)
                yield self._event("response.content_part.done", **place, part=_part(text, found))
                yield self._event("response.output_item.done", output_index=0, item=response["output"][0])
                yield self._event(f"response.{response['status']}", response=response)
        except ApiError as error:
            told = error.body()["error"]
            failed = {**self._response("failed", []), "error": {"code": "server_error", "message": told["message"]}}
            yield self._event("response.failed", response=failed)
        finally:
            self._answers.abort()

    def _event(self, name: str, **content: object) -> bytes:
        written = event({"type": name, "sequence_number": self._number, **content}, name)
        self._number += 1
        return written

    def _finish(self, completion: Completion, log_probabilities: list[dict[str, Any]]) -> dict[str, Any]:
        """The complete response, kept if it is to be."""
        is_whole = completion.finish_reason == "stop"
        status = "completed" if is_whole else "incomplete"
        response = self._response(status, [self._item(status, [_part(completion.text, log_probabilities)])])
        response["usage"] = self._usage.to_responses()
        if not is_whole:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        if self._body.store is not False:
            messages = [*self._messages, {"role": "assistant", "content": completion.text}]
            size = len(dump(response)) + len(dump(messages))
            self._state.responses.put(
                self._owner, self._id, StoredResponse(body=response, messages=messages, nbytes=size)
            )
        return response

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._message_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        body = self._body
        found: dict[str, Any] = {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._service.name,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": body.previous_response_id,
            "store": body.store is not False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
        }
        return {**found, "warnings": self._warnings} if self._warnings else found

    def _log_probabilities(self, piece: AnswerPiece) -> list[dict[str, Any]]:
        if not self._body.include:
            return []
        found = chat_log_probabilities(piece.log_probabilities, self._service.tokens.label)["content"]
        return [{**one, "bytes": one["bytes"] or []} for one in found]


def _part(text: str, log_probabilities: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": log_probabilities}


RESPONSE = record(
    id=TEXT,
    object={"const": "response"},
    created_at=INTEGER,
    status={"enum": ["completed", "incomplete", "failed", "in_progress"]},
    model=TEXT,
    output=listed({"type": "object"}),
    previous_response_id=OPTIONAL_TEXT,
    usage=optional({"type": "object"}),
)

OPERATIONS = [
    Operation(
        method="POST",
        path="/v1/responses",
        handler=create_response,
        summary="An answer that can be kept",
        body=schema_of(ResponseBody),
        answer=RESPONSE,
        streams=True,
        statuses=(404, 503),
    ),
    Operation(
        method="GET",
        path="/v1/responses/{id}",
        handler=get_response,
        summary="A response that was kept",
        answer=RESPONSE,
        parameters=("id",),
        statuses=(404,),
    ),
    Operation(
        method="DELETE",
        path="/v1/responses/{id}",
        handler=delete_response,
        summary="Forget a response",
        answer=record(id=TEXT, object=TEXT, deleted={"type": "boolean"}),
        parameters=("id",),
        statuses=(404,),
    ),
]
