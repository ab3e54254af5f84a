"""/openapi.json: the document of the whole API, made from the operations themselves."""

import re
from collections.abc import Sequence
from typing import Any

from flyweight.serving.http.operations import Operation
from flyweight.serving.protocol.schemas import ERROR
from flyweight.version import __version__

MEANINGS = {
    400: "The request cannot be carried out as given",
    401: "An API key is needed",
    403: "This key does not open that path",
    404: "There is no such thing",
    408: "The body did not come in time",
    409: "It contradicts what is served now",
    413: "The body is too large",
    415: "The body is not JSON",
    429: "This API key has too much open",
    431: "The headers are too large",
    500: "The server failed",
    503: "The server takes no more at present",
}
OF_BODIES = (400, 408, 413, 415, 429)
EVERYWHERE = (400, 401, 431, 500)

EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
    "description": "One event of a stream; its data is JSON, or [DONE].",
}


def openapi_document(operations: Sequence[Operation], *, open_paths: frozenset[str]) -> dict[str, Any]:
    """The document.

    Args:
        open_paths: paths that need no key.
    """
    schemas: dict[str, Any] = {"Error": ERROR}
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", one.path)
        paths.setdefault(path, {})[one.method.lower()] = _operation(one, schemas, is_open=path in open_paths)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Flyweight", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(one: Operation, schemas: dict[str, Any], *, is_open: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": one.handler.__name__,
        "summary": one.summary,
        "responses": _responses(one),
    }
    if not is_open:
        found["security"] = [{"key": []}, {}]
    if one.parameters:
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in one.parameters
        ]
    if one.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _hoisted(one.body, schemas)}},
        }
    return found


def _responses(one: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if one.answer is not None:
        content[one.answer_type] = {"schema": one.answer}
    if one.streams:
        content["text/event-stream"] = {"schema": EVENT}
    found: dict[str, Any] = {"200": {"description": one.summary, "content": content}}
    bodies = OF_BODIES if one.body is not None else ()
    for status in sorted({*EVERYWHERE, *bodies, *one.statuses}):
        found[str(status)] = {
            "description": MEANINGS[status],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    return found


def _hoisted(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to the schema, which now lies with the document's others, as do those that it refers to."""
    own = {name: value for name, value in schema.items() if name != "$defs"}
    schemas.update(schema.get("$defs", {}))
    schemas[schema["title"]] = own
    return {"$ref": f"#/components/schemas/{schema['title']}"}
