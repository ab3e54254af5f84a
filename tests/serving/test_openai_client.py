"""The official client of OpenAI's API against a real server: each understands the other."""

import json

import pytest

MESSAGES = [{"role": "user", "content": "What is the opposite of hot?"}]
GREEDY = {"model": "demo", "messages": MESSAGES, "temperature": 0, "max_tokens": 16}


@pytest.fixture(scope="module")
def openai():
    """Imported by the worker that runs this file alone: it takes a second or two."""
    import openai

    return openai


@pytest.fixture(scope="module")
def api(demo, openai):
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="unused-key", max_retries=0) as found:
        yield found


def test_models(api, openai):
    (model,) = api.models.list().data
    assert model.id == "demo"
    assert api.models.retrieve("demo").max_model_len == 512
    with pytest.raises(openai.NotFoundError, match="is not served"):
        api.models.retrieve("other")


def test_chat(api):
    found = api.chat.completions.create(**GREEDY)
    assert found.object == "chat.completion"
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].message.content
    assert found.choices[0].finish_reason in ("stop", "length")
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_chat_streamed(api):
    whole = api.chat.completions.create(**GREEDY)
    chunks = list(
        api.chat.completions.create(
            **GREEDY, stream=True, stream_options={"include_usage": True}, extra_body={"priority": 1}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason


def test_continuous_usage(api):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(api.chat.completions.create(**GREEDY, stream=True, stream_options=options))
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_log_probabilities(api):
    found = api.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3)
    content = found.choices[0].logprobs.content
    assert len(content) == found.usage.completion_tokens
    for one in content:
        assert len(one.top_logprobs) == 3
        assert one.logprob == one.top_logprobs[0].logprob  # greedy
        assert one.logprob <= 0


def test_several_answers_and_seeds(api):
    ask = {**GREEDY, "temperature": 1.5, "n": 3, "seed": 7}
    first, second = (api.chat.completions.create(**ask) for _ in range(2))
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert [one.message.content for one in first.choices] == [one.message.content for one in second.choices]
    streamed = {}
    for chunk in api.chat.completions.create(**ask, stream=True):
        choice = chunk.choices[0]
        streamed[choice.index] = streamed.get(choice.index, "") + (choice.delta.content or "")
    assert [streamed[index] for index in range(3)] == [one.message.content for one in first.choices]


def test_stop(api):
    text = api.chat.completions.create(**GREEDY).choices[0].message.content
    cut = api.chat.completions.create(**GREEDY, stop=[text[2:4]]).choices[0]
    assert cut.message.content == text[: text.find(text[2:4])]
    assert cut.finish_reason == "stop"


def test_completions(api):
    found = api.completions.create(model="demo", prompt=["A cat", "A dog"], max_tokens=4, logprobs=2, echo=True)
    assert [choice.index for choice in found.choices] == [0, 1]
    assert found.choices[0].text.startswith("A cat")
    assert found.choices[0].logprobs.token_logprobs[0] is None
    text = "".join(
        chunk.choices[0].text
        for chunk in api.completions.create(model="demo", prompt="A cat", max_tokens=4, temperature=0, stream=True)
    )
    assert text == api.completions.create(model="demo", prompt="A cat", max_tokens=4, temperature=0).choices[0].text


def test_errors_are_of_the_right_kind(api, openai):
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(**{**GREEDY, "temperature": 9})
    assert caught.value.param == "temperature"
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(**{**GREEDY, "messages": [{"role": "user", "content": "hot " * 1000}]})
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as caught:
        api.chat.completions.create(**{**GREEDY, "model": "gpt-9"})
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="is not known"):
        api.chat.completions.create(**GREEDY, extra_body={"guided_json": {}})


def test_responses(api, openai):
    found = api.responses.create(
        model="demo", input="What is the opposite of hot?", temperature=0, max_output_tokens=16
    )
    assert found.object == "response"
    assert found.status in ("completed", "incomplete")
    assert found.output_text == api.chat.completions.create(**GREEDY).choices[0].message.content
    assert api.responses.retrieve(found.id).output_text == found.output_text
    further = api.responses.create(
        model="demo", input="And of cold?", previous_response_id=found.id, temperature=0, max_output_tokens=8
    )
    assert further.usage.input_tokens > found.usage.input_tokens
    api.responses.delete(found.id)
    with pytest.raises(openai.NotFoundError, match="not kept"):
        api.responses.retrieve(found.id)


def test_responses_streamed(api, openai):
    ask = {"model": "demo", "input": MESSAGES, "temperature": 0, "max_output_tokens": 16, "store": False}
    whole = api.responses.create(**ask)
    events = list(api.responses.create(**ask, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == f"response.{whole.status}"
    assert events[-1].response.output_text == whole.output_text
    with api.responses.stream(**ask) as stream:
        assert stream.get_final_response().output_text == whole.output_text
    with pytest.raises(openai.NotFoundError):
        api.responses.retrieve(whole.id)


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
FORCED = {**GREEDY, "tools": [WEATHER], "max_tokens": 60}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_call(api, choice):
    found = api.chat.completions.create(**FORCED, tool_choice=choice).choices[0]
    assert found.finish_reason == "tool_calls"
    (call,) = found.message.tool_calls[:1]
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Paris", "Rome")
    assert isinstance(arguments["days"], int)
    assert call.id


def test_a_forced_call_streamed(api):
    ask = {**FORCED, "tool_choice": "required", "parallel_tool_calls": False}
    whole = api.chat.completions.create(**ask).choices[0].message.tool_calls[0]
    names, arguments, reasons = [], "", []
    for chunk in api.chat.completions.create(**ask, stream=True):
        choice = chunk.choices[0]
        for call in choice.delta.tool_calls or []:
            names += [call.function.name] if call.function.name else []
            arguments += call.function.arguments or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
    assert names == ["get_weather"]
    assert json.loads(arguments) == json.loads(whole.function.arguments)
    assert reasons == ["tool_calls"]


def test_a_conversation_with_a_call_goes_on(api):
    call = api.chat.completions.create(**FORCED, tool_choice="required").choices[0].message
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "sunny"}
    ask = {**GREEDY, "messages": [*MESSAGES, call.model_dump(exclude_none=True), result], "tools": [WEATHER]}
    assert api.chat.completions.create(**ask).choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert api.chat.completions.create(**FORCED, tool_choice="none").choices[0].message.tool_calls is None


def test_response_format(api):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "old": {"type": "boolean"}},
        "required": ["name", "old"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    found = json.loads(
        api.chat.completions.create(**{**GREEDY, "max_tokens": 80}, response_format=form).choices[0].message.content
    )
    assert set(found) == {"name", "old"}
    assert isinstance(found["old"], bool)
    chosen = api.chat.completions.create(**GREEDY, extra_body={"structured_outputs": {"choice": ["red", "blue"]}})
    assert chosen.choices[0].message.content in ("red", "blue")
    text = api.completions.create(
        model="demo", prompt="A date: ", max_tokens=20, extra_body={"structured_outputs": {"regex": "[0-9]{4}"}}
    )
    assert len(text.choices[0].text) == 4


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "tools"),
    ],
)
def test_what_cannot_bind_an_answer_is_refused(api, change, param, openai):
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.create(**GREEDY, **change)
    assert caught.value.param.startswith(param)


def test_responses_with_a_call_and_a_form(api):
    tool = {"type": "function", **WEATHER["function"]}
    ask = {"model": "demo", "input": "The weather in Rome?", "tools": [tool], "tool_choice": "required"}
    found = api.responses.create(**ask, temperature=0, max_output_tokens=60, parallel_tool_calls=False)
    (call,) = [item for item in found.output if item.type == "function_call"]
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    with api.responses.stream(**ask, temperature=0, max_output_tokens=60, parallel_tool_calls=False) as stream:
        final = stream.get_final_response()
    assert [item.arguments for item in final.output if item.type == "function_call"] == [call.arguments]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    further = api.responses.create(
        model="demo", input=[result], previous_response_id=found.id, tools=[tool], max_output_tokens=8, temperature=0
    )
    assert further.status in ("completed", "incomplete")
    schema = {"type": "object", "properties": {"old": {"type": "boolean"}}, "required": ["old"]}
    form = {"format": {"type": "json_schema", "name": "age", "schema": {**schema, "additionalProperties": False}}}
    bound = api.responses.create(model="demo", input="x", text=form, max_output_tokens=40, temperature=0)
    assert set(json.loads(bound.output_text)) == {"old"}
