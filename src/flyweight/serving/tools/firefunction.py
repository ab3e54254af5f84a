"""Firefunction 2: a list of objects behind ``functools``."""

from flyweight.serving.tools.shape import CallShape
from flyweight.serving.tools.tool_format import ToolFormat

FIREFUNCTION = ToolFormat(
    name="firefunction",
    recognises=lambda template: "functools[" in template,
    shape=CallShape(opening="functools", first="[", separator=", ", last="]"),
)
