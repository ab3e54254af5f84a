"""Bodies that are nested too deep, or hold too much, are refused before they are looked at field by field."""

import pytest

from flyweight.serving.http.bodies import MOST_FIELDS, MOST_ITEMS

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
    assert f"deeper than {most} levels" in refusal(client, {**BODY, "x": nested(most + 1)})
    assert "'x' is not known" in refusal(client, {**BODY, "x": nested(most)})


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
