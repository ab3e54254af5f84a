"""The official client of Anthropic's API against a real server."""

import pytest

ASK = {
    "model": "demo",
    "max_tokens": 16,
    "messages": [{"role": "user", "content": [{"type": "text", "text": "What is the opposite of hot?"}]}],
    "extra_body": {"temperature": 0},
}


@pytest.fixture(scope="module")
def anthropic():
    """Imported by the worker that runs this file alone: it takes a second or two."""
    return pytest.importorskip("anthropic")


@pytest.fixture(scope="module")
def api(demo, anthropic):
    with anthropic.Anthropic(base_url=demo.url, api_key="unused-key", max_retries=0) as found:
        yield found


def test_a_message(api):
    found = api.messages.create(**ASK)
    assert found.type == "message"
    assert found.content[0].text
    assert found.stop_reason in ("end_turn", "max_tokens")
    assert found.usage.output_tokens > 0


def test_a_stream(api):
    whole = api.messages.create(**ASK)
    with api.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
        final = stream.get_final_message()
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_system_and_stop_sequences(api):
    text = api.messages.create(**ASK).content[0].text
    cut = api.messages.create(**ASK, stop_sequences=[text[2:4]])
    assert cut.stop_reason == "stop_sequence"
    assert cut.stop_sequence == text[2:4]
    count = api.messages.count_tokens(model="demo", messages=ASK["messages"]).input_tokens
    longer = api.messages.count_tokens(model="demo", messages=ASK["messages"], system="Answer in one word.")
    assert longer.input_tokens > count


def test_errors(api, anthropic):
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        api.messages.create(**{**ASK, "extra_body": {"temperature": 1.5}})
    with pytest.raises(anthropic.NotFoundError, match="is not served"):
        api.messages.create(**{**ASK, "model": "other"})


WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
FORCED = {**ASK, "max_tokens": 60, "tools": [WEATHER], "tool_choice": {"type": "tool", "name": "get_weather"}}


def test_a_forced_call(api):
    found = api.messages.create(**FORCED)
    assert found.stop_reason == "tool_use"
    (call,) = [block for block in found.content if block.type == "tool_use"]
    assert call.name == "get_weather"
    assert call.input["city"] in ("Paris", "Rome")
    with api.messages.stream(**FORCED) as stream:
        final = stream.get_final_message()
    assert [block.input for block in final.content if block.type == "tool_use"] == [call.input]
    assert final.stop_reason == "tool_use"
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]}
    said = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in found.content]}
    further = api.messages.create(**{**ASK, "messages": [*ASK["messages"], said, result], "tools": [WEATHER]})
    assert further.stop_reason in ("end_turn", "max_tokens", "tool_use")
