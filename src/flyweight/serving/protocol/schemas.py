"""JSON schemas for the OpenAPI document: of bodies, made from their types, and of answers, which are written by hand
because they are built by hand."""

from typing import Any

from flyweight.serving.protocol.body import Body

REFERENCE = "#/components/schemas/{model}"

TEXT: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}
OPTIONAL_TEXT: dict[str, Any] = {"type": ["string", "null"]}


def schema_of(kind: type[Body]) -> dict[str, Any]:
    """The schema of a body; what it refers to lies under ``$defs``."""
    return kind.model_json_schema(ref_template=REFERENCE)


def record(*, optional: tuple[str, ...] = (), **properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object: every field is there but the optional ones."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def listed(items: dict[str, Any]) -> dict[str, Any]:
    """The schema of a list."""
    return {"type": "array", "items": items}


def optional(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


ERROR = record(error=record(message=TEXT, type=TEXT, param=OPTIONAL_TEXT, code=OPTIONAL_TEXT))

USAGE = record(
    prompt_tokens=INTEGER,
    completion_tokens=INTEGER,
    total_tokens=INTEGER,
    prompt_tokens_details=optional(record(cached_tokens=INTEGER)),
)

WARNINGS = listed(TEXT)

TOOL_CALL = record(id=TEXT, type={"const": "function"}, function=record(name=TEXT, arguments=TEXT))

CHAT_COMPLETION = record(
    optional=("warnings",),
    id=TEXT,
    object={"const": "chat.completion"},
    created=INTEGER,
    model=TEXT,
    choices=listed(
        record(
            index=INTEGER,
            message=record(
                optional=("tool_calls", "reasoning_content"),
                role={"const": "assistant"},
                content=OPTIONAL_TEXT,
                refusal=OPTIONAL_TEXT,
                tool_calls=listed(TOOL_CALL),
                reasoning_content=OPTIONAL_TEXT,
            ),
            logprobs=optional({"type": "object"}),
            finish_reason={"enum": ["stop", "length", "tool_calls"]},
        )
    ),
    usage=USAGE,
    warnings=WARNINGS,
)

TEXT_COMPLETION = record(
    optional=("warnings",),
    id=TEXT,
    object={"const": "text_completion"},
    created=INTEGER,
    model=TEXT,
    choices=listed(
        record(
            index=INTEGER,
            text=TEXT,
            logprobs=optional({"type": "object"}),
            finish_reason={"enum": ["stop", "length"]},
        )
    ),
    usage=USAGE,
    warnings=WARNINGS,
)
