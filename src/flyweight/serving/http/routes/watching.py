"""What operators and the page look at: /metrics, /v1/engine/state, and the timeline of a request."""

from starlette.requests import Request
from starlette.responses import Response

from flyweight.serving.api_errors import ApiError
from flyweight.serving.http.answers import json_answer
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.state import owner_of
from flyweight.serving.watch import Watch

NOT_STORED = {"Cache-Control": "no-store"}
STATE = {
    "type": "object",
    "properties": {"object": {"const": "engine.state"}, "models": {"type": "array", "items": {"type": "object"}}},
    "required": ["object", "models"],
}
TIMELINE = {
    "type": "object",
    "properties": {
        "object": {"const": "request.timeline"},
        "id": {"type": "string"},
        "model": {"type": "string"},
        "created": {"type": "number"},
        "answers": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["object", "id", "model", "created", "answers"],
}


def watching_operations(watch: Watch) -> list[Operation]:
    """The operations that show what ``watch`` has seen."""

    async def metrics(_request: Request) -> Response:
        body, content_type = watch.metrics.render()
        return Response(body, headers={**NOT_STORED, "Content-Type": content_type})

    async def engine_state(_request: Request) -> Response:
        return json_answer(watch.state(), headers=NOT_STORED)

    async def timeline(request: Request) -> Response:
        name = request.path_params["id"]
        found = watch.timelines.find(name, owner=owner_of(request).name)
        if found is None:
            # The same for one that is another key's: who asks must not learn that it exists.
            raise ApiError(
                404,
                f"there is no request {name!r} of this key; the name is in the X-Request-Id header of its answer, and "
                "the newest requests are remembered",
                param="id",
            )
        return json_answer(found, headers=NOT_STORED)

    return [
        Operation(
            method="GET",
            path="/metrics",
            handler=metrics,
            summary="Metrics for Prometheus",
            answer={"type": "string"},
            answer_type="text/plain",
        ),
        Operation(
            method="GET",
            path="/v1/engine/state",
            handler=engine_state,
            summary="How the engines are doing now and have done in the last minutes",
            answer=STATE,
        ),
        Operation(
            method="GET",
            path="/v1/requests/{id}/timeline",
            handler=timeline,
            summary="Where the time of a request went",
            answer=TIMELINE,
            parameters=("id",),
            statuses=(404,),
        ),
    ]
