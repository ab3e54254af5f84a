"""What binds an answer: ``response_format`` and ``structured_outputs``; and how their refusals are told."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flyweight.engine.grammar.spec import ConstraintSpec, constraint_of
from flyweight.errors import UsageError
from flyweight.serving.api_errors import ApiError

T = TypeVar("T")

FIELDS = ("response_format", "structured_outputs", "tool_choice", "tools")


def read_constraint(
    response_format: Mapping[str, Any] | None, structured_outputs: Mapping[str, Any] | None
) -> ConstraintSpec | None:
    """What the answer must look like.

    Raises:
        ApiError: 400, naming the field.
    """
    return told(lambda: constraint_of(response_format, structured_outputs))


def told(read: Callable[[], T]) -> T:
    """What ``read`` gives; where it refuses, the message names the field at fault first."""
    try:
        return read()
    except UsageError as error:
        message = str(error)
        raise ApiError(400, message, param=next((name for name in FIELDS if message.startswith(name)), None)) from error
