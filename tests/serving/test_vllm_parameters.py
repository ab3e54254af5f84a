"""vLLM's parameters over HTTP: what they do, and at the edges of what they may be."""

import math

import pytest

PROMPT = "The opposite of hot is"
CHAT = [{"role": "user", "content": "What is the opposite of hot?"}]


def complete(client, **body):
    answer = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 6, "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def chat(client, **body):
    answer = client.post("/v1/chat/completions", json={"messages": CHAT, "max_tokens": 6, "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_prompts_are_scored(client):
    found = complete(client, prompt=[PROMPT, "A cat"], prompt_logprobs=2, return_token_ids=True)
    echoed = complete(client, echo=True, logprobs=2)["choices"][0]["logprobs"]
    for choice in found["choices"]:
        scores, ids = choice["prompt_logprobs"], choice["prompt_token_ids"]
        assert len(scores) == len(ids)
        assert scores[0] is None
        for token, score in zip(ids[1:], scores[1:], strict=True):
            assert 2 <= len(score) <= 3
            assert sorted(one["rank"] for one in score.values() if one["rank"]) == [1, 2]
            assert math.isfinite(score[str(token)]["logprob"])
    first = found["choices"][0]
    pairs = zip(first["prompt_token_ids"][1:], first["prompt_logprobs"][1:], strict=True)
    values = [one[str(token)]["logprob"] for token, one in pairs]
    assert values == pytest.approx(echoed["token_logprobs"][1 : len(values) + 1], abs=1e-4)


def test_conversations_are_scored(client):
    found = chat(client, prompt_logprobs=0, return_token_ids=True)
    assert len(found["prompt_logprobs"]) == len(found["prompt_token_ids"]) == found["usage"]["prompt_tokens"]
    assert all(len(one) == 1 for one in found["prompt_logprobs"][1:])
    assert "prompt_logprobs" not in chat(client)


def test_a_prompt_is_scored_without_an_answer(client):
    found = complete(client, max_tokens=0, prompt_logprobs=1)
    assert found["choices"][0]["text"] == ""
    assert found["usage"]["completion_tokens"] == 0


def test_a_prompt_is_cut_where_it_is_asked_for(client):
    whole = complete(client, return_token_ids=True)["choices"][0]["prompt_token_ids"]
    cut = complete(client, return_token_ids=True, truncate_prompt_tokens=3, echo=True)
    assert cut["choices"][0]["prompt_token_ids"] == whole[-3:]
    assert cut["usage"]["prompt_tokens"] == 3
    assert complete(client, truncate_prompt_tokens=10_000)["usage"]["prompt_tokens"] == len(whole)
    context = client.get("/v1/models").json()["data"][0]["max_model_len"]
    long = "hot and cold " * context
    refused = client.post("/v1/completions", json={"prompt": long, "max_tokens": 6})
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert complete(client, prompt=long, truncate_prompt_tokens=-1)["usage"]["prompt_tokens"] == context - 6
    assert chat(client, truncate_prompt_tokens=4)["usage"]["prompt_tokens"] == 4
    too_long = {"prompt": long, "max_tokens": 6, "truncate_prompt_tokens": context}
    assert client.post("/v1/completions", json=too_long).status_code == 400


def test_words_and_tokens_are_bound(client):
    said = complete(client, return_token_ids=True)["choices"][0]
    word = said["text"].split()[0].strip(".")
    assert word not in complete(client, bad_words=[word])["choices"][0]["text"]
    token = said["token_ids"][0]
    only = complete(client, allowed_token_ids=[token], return_token_ids=True)["choices"][0]
    assert set(only["token_ids"]) == {token}
    assert only["finish_reason"] == "length"


def test_what_ends_an_answer_is_shown_where_it_is_wanted(client):
    stop = complete(client)["choices"][0]["text"].strip()[:3]
    assert not complete(client, stop=stop)["choices"][0]["text"].endswith(stop)
    shown = complete(client, stop=stop, include_stop_str_in_output=True)["choices"][0]
    assert shown["text"].endswith(stop)
    assert shown["stop_reason"] == stop


REFUSED = [
    ({"prompt_logprobs": -1}, "prompt_logprobs"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"prompt_logprobs": 1.5}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": 2**31}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": "4"}, "truncate_prompt_tokens"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"allowed_token_ids": [-1]}, "allowed_token_ids"),
    ({"allowed_token_ids": [2**31]}, "allowed_token_ids"),
    ({"allowed_token_ids": [10**6]}, None),
    ({"allowed_token_ids": list(range(8193))}, "allowed_token_ids"),
    ({"bad_words": [""]}, "bad_words"),
    ({"bad_words": [" "]}, None),
    ({"bad_words": ["x"] * 65}, "bad_words"),
    ({"bad_words": ["x" * 1025]}, "bad_words"),
    ({"bad_words": "x"}, "bad_words"),
    ({"include_stop_str_in_output": "yes"}, "include_stop_str_in_output"),
    ({"skip_special_tokens": 1}, "skip_special_tokens"),
    ({"spaces_between_special_tokens": True, "skip_special_tokens": False}, "spaces_between_special_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
]


@pytest.mark.parametrize(("body", "param"), REFUSED)
def test_what_is_not_possible_is_refused_by_name(client, body, param):
    answer = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 4, **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    if param is not None:
        assert error["param"].startswith(param)
    assert next(name for name in body if name != "stream") in error["message"]


def test_where_nothing_can_be_chosen_the_client_is_told(client):
    token = complete(client, return_token_ids=True)["choices"][0]["token_ids"][0]
    text = client.post("/detokenize", json={"tokens": [token]}).json()["prompt"].strip()
    body = {"prompt": PROMPT, "max_tokens": 4, "allowed_token_ids": [token], "logit_bias": {str(token): -100}}
    assert client.post("/v1/completions", json=body).status_code == 200
    ends = {"prompt": PROMPT, "max_tokens": 4, "allowed_token_ids": [token], "bad_words": [text]}
    answer = client.post("/v1/completions", json=ends)
    assert answer.status_code in (200, 400), answer.text


def test_what_changes_nothing_is_taken(client):
    same = complete(client)["choices"][0]["text"]
    assert complete(client, skip_special_tokens=True, spaces_between_special_tokens=True)["choices"][0]["text"] == same
    assert complete(client, skip_special_tokens=False, spaces_between_special_tokens=False)
    assert complete(client, bad_words=[])["choices"][0]["text"] == same
