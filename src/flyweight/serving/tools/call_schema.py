"""The arguments of a call as a part of a grammar, by the schema of its function."""

import json
from collections.abc import Mapping
from typing import Any

from flyweight.engine.grammar.json_options import JSON_OPTIONS
from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.errors import UsageError
from flyweight.serving.tools.tool import Tool


def schema_of(tool: Tool) -> Mapping[str, Any]:
    """What arguments must satisfy: the function's schema, or any object where it is explicitly not strict.

    Raises:
        UsageError: when the schema is one of something else than an object.
    """
    if tool.strict is False:
        return {"type": "object"}
    kind = tool.parameters.get("type", "object")
    if kind != "object":
        raise UsageError(
            f"tools: the parameters of function {tool.name!r} are of type {kind!r}; arguments are an object"
        )
    return {**tool.parameters, "type": "object"}


def as_constraint(tool: Tool) -> ConstraintSpec:
    """The schema as a constraint of its own, whose errors name the function."""
    return ConstraintSpec.json_schema(schema_of(tool), origin=f"tools: the parameters of function {tool.name!r}")


def json_rule(tool: Tool) -> str:
    """The right side of a rule for the arguments."""
    return "%json " + json.dumps({**schema_of(tool), "x-guidance": JSON_OPTIONS}, ensure_ascii=False)
