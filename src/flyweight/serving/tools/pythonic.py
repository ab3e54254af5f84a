"""Lists of calls as Python writes them, ``[name(key=value)]``: Llama 3.2 and 4 where their template asks for it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flyweight.errors import UsageError
from flyweight.serving.tools.call_schema import schema_of
from flyweight.serving.tools.pythonic_parser import PythonicParser
from flyweight.serving.tools.tool import Tool
from flyweight.serving.tools.tool_format import ToolFormat

LITERALS = r"""
value: STRING | NUMBER | "True" | "False" | "None" | list | dict
list: "[" (value (", " value)*)? "]"
dict: "{" (STRING ": " value (", " STRING ": " value)*)? "}"
STRING: /"([^"\\\x00-\x1f]|\\["\\nt])*"/
INTEGER: /-?(0|[1-9][0-9]{0,17})/
NUMBER: /-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?/
PLAIN: /[^\[ \t\r\n](.|\n)*/
"""
SIMPLE = {
    "string": "STRING",
    "integer": "INTEGER",
    "number": "NUMBER",
    "boolean": '("True" | "False")',
    "null": '"None"',
}
SIMPLE_KEYS = frozenset(("type", "description", "title", "default", "examples", "enum"))


def grammar(tools: Sequence[Tool], parallel: bool, forced: bool) -> str:
    """Calls only, or with ``forced`` false a text or calls."""
    more = ' (", " call)*' if parallel else ""
    rules = [f"start: {'calls' if forced else 'calls | PLAIN'}", f'calls: "[" call{more} "]"']
    rules.append("call: " + " | ".join(f"call_{place}" for place in range(len(tools))))
    for place, tool in enumerate(tools):
        rules += _call(place, tool)
    return "\n".join(rules) + LITERALS


def _call(place: int, tool: Tool) -> list[str]:
    """Arguments in the order of the schema; those that are not required may be left out."""
    schema = schema_of(tool)
    properties = schema.get("properties", {})
    if tool.strict is False or not isinstance(properties, Mapping):
        properties = {}
    for name in properties:
        if not name.isidentifier():
            raise UsageError(
                f"tools: the parameter {name!r} of function {tool.name!r} cannot be written as this model calls "
                "functions; rename it to letters, digits and underscores"
            )
    required = schema.get("required", [])
    name = json.dumps(f"{tool.name}(")
    if tool.strict is False:
        pair = '/[A-Za-z_][A-Za-z0-9_]*/ "=" value'
        return [f'call_{place}: {name} ({pair} (", " {pair})*)? ")"']
    rules = [f'call_{place}: {name} first_{place}_0 ")"']
    rules += [f'pair_{place}_{n}: "{key}=" {_value(tool, key, properties[key])}' for n, key in enumerate(properties)]
    # first: nothing is written yet; rest: a comma comes before the next.
    for n, key in enumerate(properties):
        optional = key not in required
        skip_first, skip_rest = (f" | first_{place}_{n + 1}", f" | rest_{place}_{n + 1}") if optional else ("", "")
        rules.append(f"first_{place}_{n}: pair_{place}_{n} rest_{place}_{n + 1}{skip_first}")
        rules.append(f'rest_{place}_{n}: ", " pair_{place}_{n} rest_{place}_{n + 1}{skip_rest}')
    return [*rules, f'first_{place}_{len(properties)}: ""', f'rest_{place}_{len(properties)}: ""']


def _value(tool: Tool, name: str, schema: Any) -> str:
    """What may stand for a parameter of this schema."""
    if isinstance(schema, Mapping) and set(schema) <= SIMPLE_KEYS:
        if isinstance(schema.get("enum"), list):
            return "(" + " | ".join(json.dumps(_written(one), ensure_ascii=False) for one in schema["enum"]) + ")"
        if schema.get("type") in SIMPLE:
            return SIMPLE[schema["type"]]
    if tool.strict:
        raise UsageError(
            f"tools: function {tool.name!r} is strict, and the schema of its parameter {name!r} cannot be guaranteed "
            "as this model calls functions; use plain types and enum, or leave strict out"
        )
    return "value"


def _written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


PYTHONIC = ToolFormat(
    name="pythonic",
    recognises=lambda template: "func_name1(" in template,
    make_parser=PythonicParser,
    make_grammar=grammar,
)
