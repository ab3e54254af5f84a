"""/v1/admin/models: load, unload and swap models while the server runs. Only with an admin key, whatever other keys
the server knows; without admin keys these routes do not exist.
"""

from collections.abc import Awaitable, Callable
from functools import wraps

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from flyweight.serving.api_errors import ApiError
from flyweight.serving.house import ModelHouse
from flyweight.serving.http.answers import json_answer
from flyweight.serving.http.bodies import read_body
from flyweight.serving.http.middleware import given_key
from flyweight.serving.http.operations import Handler, Operation
from flyweight.serving.keys import KeyRing
from flyweight.serving.protocol.body import Body

SCHEMA = "#/components/schemas/{model}"
LIST = {
    "type": "object",
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}},
    "required": ["object", "data"],
}
CHANGED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


class LoadBody(Body):
    """A further model."""

    name: str = Field(min_length=1, max_length=64)
    path: str = Field(min_length=1, max_length=4096)
    cache_tokens: int | None = Field(default=None, ge=1, le=1 << 30)


class SwapBody(Body):
    """Another model behind a name."""

    path: str = Field(min_length=1, max_length=4096)
    cache_tokens: int | None = Field(default=None, ge=1, le=1 << 30)


def admin_operations(house: ModelHouse, keys: KeyRing) -> list[Operation]:
    """The operations that change which models ``house`` holds, for those who have one of ``keys``."""

    def guarded(handler: Callable[[Request], Awaitable[Response]]) -> Handler:
        @wraps(handler)
        async def answer(request: Request) -> Response:
            if keys.find(given_key(request.scope["headers"])) is None:
                raise ApiError(403, "this path needs an admin key", code="admin_key_needed")
            return await handler(request)

        return answer

    async def list_residents(_request: Request) -> Response:
        return json_answer(house.describe())

    async def load_model(request: Request) -> Response:
        body, _ = await read_body(request, LoadBody)
        service = await house.load(body.name, body.path, cache_tokens=body.cache_tokens)
        return json_answer({"name": body.name, "card": service.card.to_dict()})

    async def swap_model(request: Request) -> Response:
        body, _ = await read_body(request, SwapBody)
        name = request.path_params["name"]
        service = await house.swap(name, body.path, cache_tokens=body.cache_tokens)
        return json_answer({"name": name, "card": service.card.to_dict()})

    async def unload_model(request: Request) -> Response:
        name = request.path_params["name"]
        await house.unload(name)
        return json_answer({"name": name, "deleted": True})

    return [
        Operation(
            method="GET",
            path="/v1/admin/models",
            handler=guarded(list_residents),
            summary="Which models are in memory, and what they take",
            answer=LIST,
            statuses=(403,),
        ),
        Operation(
            method="POST",
            path="/v1/admin/models",
            handler=guarded(load_model),
            summary="Load a further model",
            body=LoadBody.model_json_schema(ref_template=SCHEMA),
            answer=CHANGED,
            statuses=(403, 404, 409),
        ),
        Operation(
            method="DELETE",
            path="/v1/admin/models/{name}",
            handler=guarded(unload_model),
            summary="Unload a model when its requests have ended",
            answer={**CHANGED, "required": ["name", "deleted"]},
            parameters=("name",),
            statuses=(403, 404, 409),
        ),
        Operation(
            method="POST",
            path="/v1/admin/models/{name}/swap",
            handler=guarded(swap_model),
            summary="Put another model behind a name; no request is lost",
            body=SwapBody.model_json_schema(ref_template=SCHEMA),
            answer=CHANGED,
            parameters=("name",),
            statuses=(403, 404, 409),
        ),
    ]
