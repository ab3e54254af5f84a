"""Bodies that are nested too deep, or hold too much, are refused before they are looked at field by field."""

import json

import pytest

from flyweight.serving.api_errors import ApiError
from flyweight.serving.http import bodies
from flyweight.serving.http.bodies import MOST_FIELDS, MOST_ITEMS
from flyweight.serving.limits import ServerLimits
from flyweight.serving.protocol.body import Body

NESTING = ServerLimits().body_nesting
BODY = {"prompt": "a", "max_tokens": 1}


def nested(levels):
    value = 1
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


def refusal(client, body):
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    return answer.json()["error"]["message"]


def test_nesting_has_a_limit(client, demo):
    most = demo.state.limits.body_nesting
    assert f"deeper than {most} levels" in refusal(client, {**BODY, "x": nested(most)})
    assert "'x' is not known" in refusal(client, {**BODY, "x": nested(most - 1)})


@pytest.mark.parametrize("value", ["a", True, 1.5, None, [], {}])
def test_only_lists_of_whole_numbers_may_be_long(client, value):
    long = [1] * MOST_ITEMS + [value]
    message = f"a list in the body has {MOST_ITEMS + 1} items"
    assert message in refusal(client, {**BODY, "x": long})
    assert message in refusal(client, {**BODY, "x": {"y": [{"z": long}]}})
    assert "'x' is not known" in refusal(client, {**BODY, "x": long[1:]})
    assert "'x' is not known" in refusal(client, {**BODY, "x": [1] * (MOST_ITEMS + 1)})


def test_objects_may_not_be_large(client):
    large = {str(number): 1 for number in range(MOST_FIELDS + 1)}
    assert f"an object in the body has {MOST_FIELDS + 1} fields" in refusal(client, {**BODY, "x": [[large]]})
    del large["0"]
    assert "'x' is not known" in refusal(client, {**BODY, "x": [[large]]})


class Anything(Body):
    """Takes whatever the bounds let through."""

    value: object


def told(text: str, nesting: int = NESTING) -> str:
    """The message of a refusal; empty where the body is taken."""
    try:
        bodies._read(text.encode(), Anything, lenient=False, nesting=nesting)
    except ApiError as error:
        return error.message if (error.status, error.code) == (400, "invalid_json") else repr(error)
    return ""


def nested_text(levels: int, *, of: str = "list") -> str:
    """A body that many levels deep, its own object among them."""
    begin, end = ("[", "]") if of == "list" else ('{"a":', "}")
    inner = levels - 1
    return '{"value":' + begin * inner + ("" if of == "list" else "1") + end * inner + "}"


@pytest.mark.parametrize("of", ["list", "object"])
def test_nesting(of):
    assert NESTING == 64
    assert told(nested_text(NESTING, of=of)) == ""
    for levels in (NESTING + 1, 500, 1000):  # the parser itself refuses from 1024 on
        assert told(nested_text(levels, of=of)) == "the body is nested deeper than 64 levels"
    assert told(nested_text(3, of=of), nesting=3) == ""
    assert "deeper than 3" in told(nested_text(4, of=of), nesting=3)


def test_nesting_is_that_of_the_deepest_part():
    wide = ",".join(["[]"] * 50)
    assert told(f'{{"value":[{wide},[[1]],{wide}]}}', nesting=4) == ""
    assert "deeper than 4" in told(f'{{"value":[{wide},[[[1]]],{wide}]}}', nesting=4)
    assert told('{"value":"' + "[" * 1000 + '"}') == ""


def test_nesting_beyond_what_the_parser_takes():
    assert "not JSON" in told(nested_text(2000))


def fields(count: int) -> dict[str, int]:
    return {f"a{place}": 1 for place in range(count)}


def test_number_of_fields():
    assert told(json.dumps({"value": fields(MOST_FIELDS)})) == ""
    assert "has 4097 fields; 4096 are allowed" in told(json.dumps({"value": fields(MOST_FIELDS + 1)}))
    assert "has 4097 fields" in told(json.dumps({"value": [[fields(MOST_FIELDS + 1)]]}))
    assert "has 4098 fields" in told(json.dumps({"value": 1, **fields(MOST_FIELDS + 1)}))


@pytest.mark.parametrize("item", ["a", {}, True])
def test_number_of_items_that_are_no_token_ids(item):
    assert told(json.dumps({"value": [item] * MOST_ITEMS})) == ""
    assert "has 16385 items; 16384 are allowed" in told(json.dumps({"value": [item] * (MOST_ITEMS + 1)}))
    assert "has 16385 items" in told(json.dumps({"value": {"a": [1, [item] * (MOST_ITEMS + 1)]}}))


def test_lists_of_numbers_may_be_long():
    assert told(json.dumps({"value": [1] * 100_000})) == ""
    assert "has 100001 items" in told(json.dumps({"value": [*[1] * 100_000, "a"]}))
