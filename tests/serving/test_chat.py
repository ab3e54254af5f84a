"""/v1/chat/completions: answers, streams, and refusals that name the field."""

import json

import pytest

ASK = {"messages": [{"role": "user", "content": "What is the opposite of hot?"}], "max_tokens": 16, "temperature": 0}


def events(response):
    found = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    assert found[-1] == "[DONE]"
    return [json.loads(one) for one in found[:-1]]


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = client.post("/v1/chat/completions", json=ASK).json()
    streamed = client.post(
        "/v1/chat/completions", json={**ASK, "stream": True, "stream_options": {"include_usage": True}}
    )
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.headers["x-accel-buffering"] == "no"
    *chunks, last = events(streamed)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"messages": []}, "messages", "at least 1"),
        ({"temperature": "1"}, "temperature", "number"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 65}, "n", "less than or equal to 64"),
        ({"max_tokens": 10**6}, "max_tokens", "this server allows"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "differ"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs=true"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "need stream=true"),
        ({"min_tokens": 20}, "min_tokens", "above max_tokens=16"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "pattern"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "system"),
        ({"messages": [{"role": "user"}]}, "messages[0]", "needs content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0]",
            "takes text only",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_refused_by_name(client, change, param, message):
    answer = client.post("/v1/chat/completions", json={**ASK, **change})
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert error["param"] == param
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_prompt_that_does_not_fit_is_refused(client):
    ask = {**ASK, "messages": [{"role": "user", "content": "hot and cold " * 400}]}
    answer = client.post("/v1/chat/completions", json=ask)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_other_content_types_and_broken_json_are_refused(client):
    assert client.post("/v1/chat/completions", content=b"{}").status_code == 415
    broken = client.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert broken.status_code == 400
    assert broken.json()["error"]["code"] == "invalid_json"
    deep = b'{"messages":' + b"[" * 100 + b"]" * 100 + b"}"
    nested = client.post("/v1/chat/completions", content=deep, headers={"content-type": "application/json"})
    assert "nested deeper" in nested.json()["error"]["message"]


def test_unknown_models_paths_and_methods(client):
    assert client.post("/v1/chat/completions", json={**ASK, "model": "demi"}).status_code == 404
    assert client.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert client.get("/v1/chat/completions").status_code == 405


def test_the_card_says_how_long_a_prompt_may_be(client):
    (card,) = client.get("/v1/models").json()["data"]
    assert card["id"] == "demo"
    assert card["max_model_len"] == 512
    assert client.get("/v1/models/demo").json() == card


def test_health_and_readiness(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
