"""What an answer must look like, as a value; read from the fields in which the OpenAI API and vLLM ask for it.

It compiles nothing and knows no tokens.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flyweight.errors import UsageError, nearest

Kind = Literal["json_schema", "regex", "choice", "lark"]
FORMAT_TYPES = ("text", "json_object", "json_schema")
SCHEMA_FIELDS = ("name", "description", "schema", "strict")
OUTPUT_FIELDS = ("json", "regex", "choice", "grammar", "json_object")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConstraintSpec:
    """One way in which an answer is bound. Make one with the class methods.

    Attributes:
        kind: ``json_schema``, ``regex`` (of the whole answer), ``choice`` or ``lark``, as llguidance takes it.
        source: the schema as JSON text, the pattern, the choices as a JSON list, or the grammar.
        origin: the field it came from, which errors name.
        parts: of a grammar that was put together: what it is made of. Where it cannot be compiled, the first part that
            cannot either says why and where.
    """

    kind: Kind
    source: str
    origin: str = "the constraint"
    parts: tuple["ConstraintSpec", ...] = ()

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | bool | str, *, origin: str = "json_schema") -> "ConstraintSpec":
        """JSON that satisfies ``schema``, an object or JSON text.

        Raises:
            UsageError: when it is not a JSON schema.
        """
        if isinstance(schema, str):
            schema = _parsed(schema, origin)
        if not isinstance(schema, (Mapping, bool)):
            raise UsageError(f"{origin} must be a JSON schema: an object, true or false")
        if schema is False:
            raise UsageError(f"{origin} is false, which no answer satisfies")
        if schema is True:
            schema = {}
        return cls(kind="json_schema", source=_dumped(schema, origin), origin=origin)

    @classmethod
    def json_object(cls, *, origin: str = "json_object") -> "ConstraintSpec":
        """Any JSON object."""
        return cls(kind="json_schema", source='{"type":"object"}', origin=origin)

    @classmethod
    def regex(cls, pattern: str, *, origin: str = "regex") -> "ConstraintSpec":
        """Text that ``pattern`` matches as a whole."""
        return cls(kind="regex", source=_text(pattern, origin), origin=origin)

    @classmethod
    def choice(cls, choices: Sequence[str], *, origin: str = "choice") -> "ConstraintSpec":
        """One of these texts."""
        if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
            raise UsageError(f"{origin} must be a list of at least one text")
        for place, one in enumerate(choices):
            if not isinstance(one, str) or not one:
                raise UsageError(f"{origin}[{place}] must be a text of at least one character")
        return cls(kind="choice", source=_dumped(list(choices), origin), origin=origin)

    @classmethod
    def lark(
        cls, grammar: str, *, origin: str = "grammar", parts: tuple["ConstraintSpec", ...] = ()
    ) -> "ConstraintSpec":
        """Text of a grammar in Lark's notation, as llguidance reads it."""
        return cls(kind="lark", source=_text(grammar, origin), origin=origin, parts=parts)


def from_response_format(given: Any) -> ConstraintSpec | None:
    """What ``response_format`` of the OpenAI API asks for: ``text`` (None), ``json_object`` or ``json_schema``.

    ``strict`` may be true or false: a schema is kept to in both cases, and one that cannot be is refused.

    Raises:
        UsageError: naming the field at fault.
    """
    if given is None:
        return None
    fields = _object(given, "response_format")
    kind = fields.get("type")
    if kind not in FORMAT_TYPES:
        raise UsageError(f"response_format.type={kind!r} is unknown; choose {_listed(FORMAT_TYPES)}")
    allowed = ("type", "json_schema") if kind == "json_schema" else ("type",)
    _refuse_unknown(fields, allowed, "response_format")
    if kind == "text":
        return None
    if kind == "json_object":
        return ConstraintSpec.json_object(origin="response_format")
    schema = _object(fields.get("json_schema"), "response_format.json_schema")
    _refuse_unknown(schema, SCHEMA_FIELDS, "response_format.json_schema")
    if not isinstance(schema.get("name", ""), str) or not isinstance(schema.get("description") or "", str):
        raise UsageError("name and description in response_format.json_schema must be texts")
    if not isinstance(schema.get("strict") or False, bool):
        raise UsageError(f"response_format.json_schema.strict={schema['strict']!r} is not a boolean")
    if "schema" not in schema:
        raise UsageError("response_format.json_schema needs schema, the JSON schema itself")
    return ConstraintSpec.json_schema(
        _object(schema["schema"], "response_format.json_schema.schema"), origin="response_format.json_schema.schema"
    )


def from_structured_outputs(given: Any) -> ConstraintSpec | None:
    """What vLLM's ``structured_outputs`` asks for: exactly one of ``json`` (a schema, as an object or as text),
    ``regex``, ``choice``, ``grammar`` and ``json_object``.

    Raises:
        UsageError: naming the field at fault.
    """
    if given is None:
        return None
    fields = {name: value for name, value in _object(given, "structured_outputs").items() if value is not None}
    _refuse_unknown(fields, OUTPUT_FIELDS, "structured_outputs")
    if len(fields) != 1:
        raise UsageError(f"structured_outputs has {len(fields)} fields; give exactly one of {_listed(OUTPUT_FIELDS)}")
    [(name, value)] = fields.items()
    origin = f"structured_outputs.{name}"
    if name == "json":
        return ConstraintSpec.json_schema(value, origin=origin)
    if name == "regex":
        return ConstraintSpec.regex(value, origin=origin)
    if name == "choice":
        return ConstraintSpec.choice(value, origin=origin)
    if name == "grammar":
        return ConstraintSpec.lark(value, origin=origin)
    if value is not True:
        raise UsageError(f"{origin}={value!r} is not possible; give true, or leave it out")
    return ConstraintSpec.json_object(origin=origin)


def constraint_of(response_format: Any, structured_outputs: Any) -> ConstraintSpec | None:
    """What both fields ask for together.

    Raises:
        UsageError: when a field is at fault, or both bind the answer.
    """
    first, second = from_response_format(response_format), from_structured_outputs(structured_outputs)
    if first is not None and second is not None:
        raise UsageError("response_format and structured_outputs both bind the answer; give one of them")
    return first if first is not None else second


def _parsed(text: str, origin: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{origin} is not JSON: {error}") from error


def _dumped(value: Any, origin: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{origin} cannot be written as JSON: {error}") from error
    return _text(text, origin)


def _text(value: Any, origin: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{origin} must be a text of at least one character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{origin} is not valid Unicode at character {error.start}: {error.reason}") from error
    return value


def _object(value: Any, origin: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{origin} must be an object")
    return value


def _refuse_unknown(given: Mapping[str, Any], known: Sequence[str], origin: str) -> None:
    for name in given:
        if name not in known:
            raise UsageError(
                f"{origin} has an unknown field {name!r}; known are {_listed(known)}{nearest(name, known)}"
            )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
