"""/v1/responses: answers that can be kept, asked for again, and gone on from."""

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from flyweight.engine.generation import Completion
from flyweight.engine.log_probabilities import chat_log_probabilities
from flyweight.serving.answers import AnswerPiece, Answers
from flyweight.serving.api_errors import ApiError
from flyweight.serving.asks import Ask, Conversation
from flyweight.serving.calls import Calling, read_calling
from flyweight.serving.http.answers import dump, json_answer
from flyweight.serving.http.bodies import read_body
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.routes.generation import UsageCount, new_id, now, send_reply
from flyweight.serving.http.routes.response_items import OutputItems
from flyweight.serving.http.sse import event
from flyweight.serving.http.state import ServerState, owner_of, request_id_of, state_of
from flyweight.serving.http.waiting import unless_left
from flyweight.serving.protocol.chat import read_arguments
from flyweight.serving.protocol.responses import FunctionChoice, ResponseBody, with_instructions
from flyweight.serving.protocol.schemas import INTEGER, OPTIONAL_TEXT, TEXT, listed, optional, record, schema_of
from flyweight.serving.protocol.structure import read_constraint
from flyweight.serving.service import ModelService
from flyweight.serving.stored_responses import StoredResponse


async def create_response(request: Request) -> ASGIApp:
    """Answer, and keep the answer unless ``store`` is false."""
    body, warnings = await read_body(request, ResponseBody)
    state, owner = state_of(request), owner_of(request)
    service = state.service(body.model)
    messages = [*_earlier(state, owner.name, body.previous_response_id), *body.messages()]
    calling = read_calling(
        service.tool_format,
        special_id=service.tokens.special_id,
        tools=body.functions,
        choice=body.choice,
        parallel=body.parallel_tool_calls,
        constraint=read_constraint(body.response_format, None),
    )
    conversation = Conversation(messages=with_instructions(body.instructions, messages))
    ask = Ask(
        request_id=request_id_of(request),
        owner=owner,
        prompts=(calling.put_into(conversation),),
        options=body.sampling_options(),
        max_tokens=body.max_output_tokens,
        streams=bool(body.stream),
        constraint=calling.constraint,
        shown_tokens=calling.marks,
    )
    answers = await unless_left(request, service.answer(ask))
    reply = ResponseReply(
        service, body, answers, calling, state=state, owner=owner.name, messages=messages, warnings=warnings
    )
    return await send_reply(request, answers, reply, streams=body.stream)


async def get_response(request: Request) -> Response:
    """A response that was kept, or as far as it is made."""
    name, owner, state = request.path_params["id"], owner_of(request).name, state_of(request)
    running = state.running_responses.get(owner, name)
    if running is not None:
        return json_answer(running.so_far())
    found = state.responses.get(owner, name)
    if found is None:
        raise _not_kept(name)
    return json_answer(found.body)


async def cancel_response(request: Request) -> Response:
    """End a response that is being made."""
    name, owner, state = request.path_params["id"], owner_of(request).name, state_of(request)
    running = state.running_responses.get(owner, name)
    if running is not None:
        return json_answer(running.cancel())
    found = state.responses.get(owner, name)
    if found is None:
        raise _not_kept(name)
    if found.body["status"] != "cancelled":
        raise ApiError(
            409, f"the response {name!r} has ended already: it is {found.body['status']}", code="response_ended"
        )
    return json_answer(found.body)


async def delete_response(request: Request) -> Response:
    """Forget a response."""
    name, owner, state = request.path_params["id"], owner_of(request).name, state_of(request)
    if state.running_responses.get(owner, name) is not None:
        raise ApiError(
            409,
            f"the response {name!r} is being made; cancel it with POST /v1/responses/{name}/cancel before",
            code="response_running",
        )
    if not state.responses.remove(owner, name):
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
        calling: Calling,
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
        self._reader = calling.reader()
        self._items = OutputItems(self._event)
        self._id = new_id("resp")
        self._created = now()
        self._number = 0
        self._left: dict[str, Any] | None = None  # what there is of a response that was cancelled

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        (piece,) = await self._answers.all()
        self._read(piece)
        assert piece.completion is not None
        return self._finish(_status(piece.completion))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The events of a stream, each with its number. One that is cancelled ends as an incomplete one does, which is
        the nearest that clients know, with the status ``cancelled``."""
        running = self._state.running_responses
        running.put(self._owner, self._id, self)
        try:
            for name in ("response.created", "response.in_progress"):
                yield self._event(name, {"response": self._response("in_progress", [])})
            async for piece in self._answers:
                if self._left is not None:
                    break
                for written in self._read(piece):
                    yield written
                if piece.completion is not None:
                    response = self._finish(_status(piece.completion))
                    yield self._event(f"response.{response['status']}", {"response": response})
            if self._left is not None:
                yield self._event("response.incomplete", {"response": self._left})
        except ApiError as error:
            told = error.body()["error"]
            failed = {**self._response("failed", []), "error": {"code": "server_error", "message": told["message"]}}
            yield self._event("response.failed", {"response": failed})
        finally:
            running.remove(self._owner, self._id)

    def so_far(self) -> dict[str, Any]:
        """The response as it stands."""
        return self._response("in_progress", [dict(item) for item in self._items.items])

    def cancel(self) -> dict[str, Any]:
        """End the answer; what was read of it is the response."""
        self._answers.abort()
        self._state.running_responses.remove(self._owner, self._id)
        self._items.end("incomplete")
        self._left = self._finish("cancelled")
        return self._left

    def _event(self, name: str, content: dict[str, Any]) -> bytes:
        written = event({"type": name, "sequence_number": self._number, **content}, name)
        self._number += 1
        return written

    def _read(self, piece: AnswerPiece) -> list[bytes]:
        """What a piece brings, as events; the items are made with them."""
        self._usage.add(piece)
        self._items.score(self._log_probabilities(piece))
        is_last = piece.completion is not None
        told = [
            written for delta in self._reader.read(piece.text, is_last=is_last) for written in self._items.add(delta)
        ]
        if piece.completion is not None:
            told += self._items.end(_status(piece.completion))
        return told

    def _finish(self, status: str) -> dict[str, Any]:
        """The response at its end, kept if it is to be."""
        response = self._response(status, self._items.items)
        response["usage"] = self._usage.to_responses()
        if status == "incomplete":
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        if self._body.store is not False:
            messages = [*self._messages, self._said()]
            size = len(dump(response)) + len(dump(messages))
            self._state.responses.put(
                self._owner, self._id, StoredResponse(body=response, messages=messages, nbytes=size)
            )
        return response

    def _said(self) -> dict[str, Any]:
        """The answer as the conversation goes on from it."""
        texts = [part["text"] for item in self._items.items for part in item.get("content", ())]
        said: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
        calls = [
            {
                "id": one["call_id"],
                "type": "function",
                "function": {"name": one["name"], "arguments": read_arguments(one["arguments"])},
            }
            for one in self._items.calls
        ]
        return {**said, "tool_calls": calls} if calls else said

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        body = self._body
        form, choice = None if body.text is None else body.text.format, body.tool_choice
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
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "store": body.store is not False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": choice.model_dump() if isinstance(choice, FunctionChoice) else choice or "auto",
            "tools": [tool.model_dump() for tool in body.tools or ()],
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


def _status(completion: Completion) -> str:
    return "completed" if completion.finish_reason == "stop" else "incomplete"


RESPONSE = record(
    id=TEXT,
    object={"const": "response"},
    created_at=INTEGER,
    status={"enum": ["completed", "incomplete", "failed", "in_progress", "cancelled"]},
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
        summary="A response that was kept, or is being made",
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
        statuses=(404, 409),
    ),
    Operation(
        method="POST",
        path="/v1/responses/{id}/cancel",
        handler=cancel_response,
        summary="End a response that is being made",
        answer=RESPONSE,
        parameters=("id",),
        statuses=(404, 409),
    ),
]
