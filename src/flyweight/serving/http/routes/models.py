"""/v1/models: what is served, with the quality figures that travel with each checkpoint."""

from starlette.requests import Request
from starlette.responses import Response

from flyweight.serving.http.answers import json_answer
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.state import state_of

CARD = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "max_model_len": {"type": "integer"},
        "quantization": {"type": ["string", "null"]},
        "compression": {"type": ["object", "null"]},
        "quality": {"type": ["object", "null"]},
    },
    "required": ["id", "object", "created", "owned_by", "max_model_len"],
}


async def list_models(request: Request) -> Response:
    """All models that are served."""
    cards = [service.card.to_dict() for service in state_of(request).services.values()]
    return json_answer({"object": "list", "data": cards})


async def show_model(request: Request) -> Response:
    """One model."""
    return json_answer(state_of(request).service(request.path_params["id"]).card.to_dict())


OPERATIONS = [
    Operation(
        method="GET",
        path="/v1/models",
        handler=list_models,
        summary="The models that are served",
        answer={
            "type": "object",
            "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": CARD}},
            "required": ["object", "data"],
        },
    ),
    Operation(
        method="GET",
        path="/v1/models/{id:path}",
        handler=show_model,
        summary="One model",
        answer=CARD,
        parameters=("id",),
        statuses=(404,),
    ),
]
