"""/tokenize and /detokenize: what a model makes of a text, and back."""

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from flyweight.serving.api_errors import ApiError
from flyweight.serving.http.answers import json_answer
from flyweight.serving.http.bodies import read_body
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.state import state_of
from flyweight.serving.protocol.schemas import INTEGER, TEXT, listed, optional, record, schema_of
from flyweight.serving.protocol.tokens import DetokenizeBody, TokenizeBody


async def tokenize(request: Request) -> Response:
    """The ids of a text or a conversation."""
    body, warnings = await read_body(request, TokenizeBody)
    service = state_of(request).service(body.model)
    _, ids = await service.encode(body.to_prompt())
    found: dict[str, Any] = {"count": len(ids), "max_model_len": service.model.context_length, "tokens": ids}
    found["token_strs"] = [service.tokens.label(one) for one in ids] if body.return_token_strs else None
    return json_answer({**found, "warnings": warnings} if warnings else found)


async def detokenize(request: Request) -> Response:
    """The text of ids."""
    body, warnings = await read_body(request, DetokenizeBody)
    service = state_of(request).service(body.model)
    last = service.model.spec.vocab_size - 1
    wrong = next((one for one in body.tokens if one > last), None)
    if wrong is not None:
        raise ApiError(400, f"the model has no token {wrong}; its ids go from 0 to {last}", param="tokens")
    text = await service.compute(partial(service.tokens.of, body.tokens))
    return json_answer({"prompt": text, "warnings": warnings} if warnings else {"prompt": text})


OPERATIONS = [
    Operation(
        method="POST",
        path="/tokenize",
        handler=tokenize,
        summary="The token ids of a text or a conversation",
        body=schema_of(TokenizeBody),
        answer=record(count=INTEGER, max_model_len=INTEGER, tokens=listed(INTEGER), token_strs=optional(listed(TEXT))),
        statuses=(404,),
    ),
    Operation(
        method="POST",
        path="/detokenize",
        handler=detokenize,
        summary="The text of token ids",
        body=schema_of(DetokenizeBody),
        answer=record(prompt=TEXT),
        statuses=(404,),
    ),
]
