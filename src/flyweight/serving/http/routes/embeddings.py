"""/v1/embeddings: texts as vectors, from models that were made for it.

They wait in the queue of answers, under the same limits; the engine's thread computes them between its steps.
"""

import base64
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from flyweight.formats.base import Array
from flyweight.serving.asks import EmbeddingAsk
from flyweight.serving.http.answers import json_answer
from flyweight.serving.http.bodies import read_body
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.state import owner_of, request_id_of, state_of
from flyweight.serving.http.waiting import unless_left
from flyweight.serving.protocol.embeddings import EmbeddingBody
from flyweight.serving.protocol.schemas import INTEGER, TEXT, listed, record, schema_of


async def embeddings(request: Request) -> ASGIApp:
    """The vectors of texts."""
    body, warnings = await read_body(request, EmbeddingBody)
    state = state_of(request)
    service = state.service(body.model)
    ask = EmbeddingAsk(
        request_id=request_id_of(request),
        owner=owner_of(request),
        prompts=body.prompts(),
        pooling=state.options.embeddings,
        dimensions=body.dimensions,
    )
    made = await unless_left(request, service.embed(ask))
    found: dict[str, Any] = {
        "object": "list",
        "model": service.name,
        "data": [
            {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
            for index, vector in enumerate(made.vectors)
        ],
        "usage": {"prompt_tokens": made.tokens, "total_tokens": made.tokens},
    }
    return json_answer({**found, "warnings": warnings} if warnings else found)


def _written(vector: Array, form: str | None) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    numbers: list[float] = vector.tolist()
    return numbers


OPERATIONS = [
    Operation(
        method="POST",
        path="/v1/embeddings",
        handler=embeddings,
        summary="Texts as vectors",
        body=schema_of(EmbeddingBody),
        answer=record(
            object={"const": "list"},
            model=TEXT,
            data=listed(record(object={"const": "embedding"}, index=INTEGER, embedding={"type": ["array", "string"]})),
            usage=record(prompt_tokens=INTEGER, total_tokens=INTEGER),
        ),
        statuses=(404, 503),
    ),
]
