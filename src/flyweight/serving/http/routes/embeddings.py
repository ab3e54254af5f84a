"""/v1/embeddings: texts as vectors, from models that were made for it.

The vectors are computed in the engine's thread between steps, one text at a time.
"""

import base64
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from flyweight.engine.embedding import Embedder
from flyweight.errors import FlyweightError, ResourceError
from flyweight.formats.base import Array
from flyweight.serving.api_errors import CONTEXT_LENGTH, ApiError
from flyweight.serving.http.answers import json_answer
from flyweight.serving.http.bodies import read_body
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.state import state_of
from flyweight.serving.http.waiting import unless_left
from flyweight.serving.pooling import pooling_of
from flyweight.serving.prompts import refusal
from flyweight.serving.protocol.embeddings import EmbeddingBody
from flyweight.serving.protocol.schemas import INTEGER, TEXT, listed, record, schema_of
from flyweight.serving.service import ModelService


async def embeddings(request: Request) -> ASGIApp:
    """The vectors of texts."""
    body, warnings = await read_body(request, EmbeddingBody)
    state = state_of(request)
    service = state.service(body.model)
    pooling = pooling_of(service.model.checkpoint.folder, state.options.embeddings)
    if pooling is None:
        raise ApiError(
            400,
            f"the model {service.name!r} was made to continue texts and not to embed them; serve an embedding "
            "model, or start the server with --embeddings mean or last",
            code="no_embeddings",
        )
    embedder = Embedder(service.model, pooling)
    if body.dimensions not in (None, embedder.size):
        raise ApiError(400, f"this model's vectors have {embedder.size} numbers", param="dimensions")
    service.preparing += 1  # should the model be replaced meanwhile, it stays until this is done
    try:
        found = await unless_left(request, _embed(service, embedder, body, state.limits.answers))
    finally:
        service.preparing -= 1
    return json_answer({**found, "warnings": warnings} if warnings else found)


async def _embed(service: ModelService, embedder: Embedder, body: EmbeddingBody, most: int) -> dict[str, Any]:
    prompts = body.prompts()
    if len(prompts) > most:
        raise ApiError(400, f"{len(prompts)} texts are too many at once; send at most {most}", param="input")
    texts = [(await service.encode(prompt))[1] for prompt in prompts]
    for place, ids in enumerate(texts):
        if not 0 < len(ids) <= service.model.context_length:
            raise ApiError(
                400,
                f"a text has {len(ids)} tokens; this model takes 1 to {service.model.context_length}",
                param=f"input[{place}]",
                code=CONTEXT_LENGTH if ids else None,
            )
    service.check_open()
    vectors = []
    for ids in texts:
        try:
            vectors.append(await service.run(partial(_vector, embedder, ids)))
        except ResourceError as error:
            raise ApiError(503, "running requests leave no room in the cache", retry_after=1.0) from error
        except FlyweightError as error:
            raise refusal(error, service.model, "input") from error
    tokens = sum(map(len, texts))
    return {
        "object": "list",
        "model": service.name,
        "data": [
            {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _vector(embedder: Embedder, ids: list[int], _engine: object) -> Array:
    return embedder.embed(ids)


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
