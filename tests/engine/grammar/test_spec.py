"""What the API's fields ask for: each is understood or refused by name."""

import json

import pytest

from flyweight.engine.grammar.spec import ConstraintSpec, constraint_of, from_response_format, from_structured_outputs
from flyweight.errors import UsageError

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}


def test_response_formats():
    assert from_response_format(None) is None
    assert from_response_format({"type": "text"}) is None
    assert from_response_format({"type": "json_object"}).source == '{"type":"object"}'
    for strict in (True, False, None):
        spec = from_response_format(
            {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": strict}}
        )
        assert spec.kind == "json_schema"
        assert list(json.loads(spec.source)["properties"]) == ["b", "a"]  # their order is the answer's


def test_structured_outputs():
    assert from_structured_outputs(None) is None
    assert from_structured_outputs({"json": SCHEMA}) == from_structured_outputs({"json": json.dumps(SCHEMA)})
    assert from_structured_outputs({"regex": "a+", "json": None}) == ConstraintSpec.regex(
        "a+", origin="structured_outputs.regex"
    )
    assert from_structured_outputs({"choice": ["a", "b"]}).source == '["a","b"]'
    assert from_structured_outputs({"grammar": 'start: "a"'}).kind == "lark"
    assert from_structured_outputs({"json_object": True}).source == '{"type":"object"}'


@pytest.mark.parametrize(
    ("response_format", "message"),
    [
        ("json", "response_format must be an object"),
        ({"type": "xml"}, "response_format.type='xml' is unknown; choose text, json_object or json_schema"),
        ({"type": "json_object", "schema": {}}, "response_format has an unknown field 'schema'"),
        ({"type": "json_schema"}, "response_format.json_schema must be an object"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "needs schema"),
        ({"type": "json_schema", "json_schema": {"shema": {}}}, "unknown field 'shema'.*did you mean 'schema'"),
        ({"type": "json_schema", "json_schema": {"schema": {}, "strict": 1}}, "strict=1 is not a boolean"),
        ({"type": "json_schema", "json_schema": {"schema": {}, "name": 3}}, "name and description"),
        ({"type": "json_schema", "json_schema": {"schema": []}}, "json_schema.schema must be an object"),
    ],
)
def test_what_response_format_cannot_be(response_format, message):
    with pytest.raises(UsageError, match=message):
        from_response_format(response_format)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "has 0 fields; give exactly one of json, regex, choice, grammar or json_object"),
        ({"json": {}, "regex": "a"}, "has 2 fields"),
        ({"guided_json": {}}, "unknown field 'guided_json'"),
        ({"json": "{"}, "structured_outputs.json is not JSON"),
        ({"json": 3}, "must be a JSON schema: an object, true or false"),
        ({"json": False}, "json is false, which no answer satisfies"),
        ({"json": {"const": float("nan")}}, "cannot be written as JSON"),
        ({"json": {"const": "\ud800"}}, "is not valid Unicode at character"),
        ({"regex": ""}, "structured_outputs.regex must be a text of at least one character"),
        ({"regex": "\ud800"}, "is not valid Unicode at character 0"),
        ({"choice": "ab"}, "must be a list of at least one text"),
        ({"choice": ["a", 1]}, r"choice\[1\] must be a text"),
        ({"json_object": False}, "json_object=False is not possible"),
    ],
)
def test_what_structured_outputs_cannot_be(given, message):
    with pytest.raises(UsageError, match=message):
        from_structured_outputs(given)


def test_only_one_may_bind_the_answer():
    assert constraint_of({"type": "text"}, {"regex": "a"}).kind == "regex"
    assert constraint_of({"type": "json_object"}, None).kind == "json_schema"
    with pytest.raises(UsageError, match="both bind the answer"):
        constraint_of({"type": "json_object"}, {"regex": "a"})
