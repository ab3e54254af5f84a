"""/v1/completions: continued, echoed and scored, in the forms that evaluation harnesses send."""

import json

import numpy as np
import pytest

from flyweight import load
from flyweight.demo_model import model_path

TEXT = "The opposite of hot is cold."


@pytest.fixture(scope="module")
def model():
    return load(model_path())


def ask(client, **body):
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def log_probabilities(model, ids):
    ((_, _, logits),) = model.score([ids])
    shifted = logits - logits.max(axis=1, keepdims=True)
    rows = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return [float(rows[place, token]) for place, token in enumerate(ids[1:])], rows


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("as_ids", [True, False])
def test_a_text_is_scored(client, model, max_tokens, as_ids):
    ids = model.encode(TEXT)
    found = ask(client, prompt=ids if as_ids else TEXT, echo=True, logprobs=1, max_tokens=max_tokens, temperature=0)
    (choice,) = found["choices"]
    scored = choice["logprobs"]
    expected, rows = log_probabilities(model, ids)
    assert len(scored["token_logprobs"]) == len(ids) + max_tokens
    assert scored["token_logprobs"][0] is None
    assert scored["token_logprobs"][1 : len(ids)] == pytest.approx(expected, abs=1e-4)
    for place, top in enumerate(scored["top_logprobs"][1 : len(ids)]):
        assert max(top.values()) == pytest.approx(float(rows[place].max()), abs=1e-4)
    assert TEXT in choice["text"]
    assert found["usage"]["completion_tokens"] == max_tokens
    assert found["usage"]["prompt_tokens"] == len(ids)


def test_many_prompts_are_scored_in_order(client, model):
    """As lm-evaluation-harness sends them: lists of ids, sliced by the length of the context."""
    prompts = [model.encode(text) for text in (TEXT, "Two plus three is five.", "A cat.")]
    found = ask(client, prompt=prompts, echo=True, logprobs=1, max_tokens=1, temperature=0, seed=1234)
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    for choice, ids in zip(found["choices"], prompts, strict=True):
        assert choice["logprobs"]["token_logprobs"][2:-1] == pytest.approx(
            log_probabilities(model, ids)[0][1:], abs=1e-4
        )


def test_scores_do_not_depend_on_what_was_asked_before(client, model):
    """A prompt whose beginning lies in the prefix cache is scored whole."""
    ids = (model.encode(TEXT) * 8)[:80]
    first = ask(client, prompt=ids, max_tokens=1)
    assert first["choices"][0]["logprobs"] is None
    scored = ask(client, prompt=ids, max_tokens=1, echo=True, logprobs=0)["choices"][0]["logprobs"]
    assert len(scored["tokens"]) == 81
    assert scored["token_logprobs"][1:80] == pytest.approx(log_probabilities(model, ids)[0], abs=1e-4)


def test_prompts_times_samples(client):
    found = ask(client, prompt=[TEXT, "A cat"], n=2, max_tokens=3, temperature=1.0, seed=5, ignore_eos=True)
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    again = ask(client, prompt=[TEXT, "A cat"], n=2, max_tokens=3, temperature=1.0, seed=5, ignore_eos=True)
    assert [one["text"] for one in again["choices"]] == [one["text"] for one in found["choices"]]


def test_a_stream_of_echoed_and_scored_tokens(client):
    body = {"prompt": TEXT, "echo": True, "logprobs": 1, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    whole = ask(client, **body)["choices"][0]
    answer = client.post("/v1/completions", json={**body, "stream": True})
    chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
    for name in ("tokens", "token_logprobs", "text_offset"):
        joined = [one for chunk in chunks for one in chunk["choices"][0]["logprobs"][name]]
        assert joined == whole["logprobs"][name]


def test_stop_strings_and_token_ids(client, model):
    plain = ask(client, prompt=TEXT, max_tokens=8, temperature=0, ignore_eos=True, return_token_ids=True)["choices"][0]
    third = plain["token_ids"][2]
    stopped = ask(client, prompt=TEXT, max_tokens=8, temperature=0, ignore_eos=True, stop_token_ids=[third])
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["choices"][0]["stop_reason"] == third
    text = plain["text"][:5]
    cut = ask(client, prompt=TEXT, max_tokens=8, temperature=0, ignore_eos=True, stop=plain["text"][2:5])
    assert cut["choices"][0]["text"] == text[: text.find(plain["text"][2:5])]
    assert cut["choices"][0]["stop_reason"] == plain["text"][2:5]


def test_logit_bias_forces_a_token(client, model):
    token = model.encode("cat")[-1]
    found = ask(client, prompt=TEXT, max_tokens=3, temperature=0, logit_bias={str(token): 100}, return_token_ids=True)
    assert found["choices"][0]["token_ids"] == [token] * 3


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
        ({"n": 64, "prompt": ["a", "b"]}, "n"),
        ({"logit_bias": {"99999": 1}}, None),
        ({"guided_json": {}}, "guided_json"),
    ],
)
def test_refusals_name_the_field(client, change, param):
    answer = client.post("/v1/completions", json={"prompt": TEXT, **change})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_tokens_and_back(client, model):
    found = client.post("/tokenize", json={"prompt": TEXT, "return_token_strs": True}).json()
    assert found["tokens"] == model.encode(TEXT)
    assert found["count"] == len(found["token_strs"]) == len(found["tokens"])
    assert found["max_model_len"] == 512
    assert TEXT in client.post("/detokenize", json={"tokens": found["tokens"]}).json()["prompt"]
    chat = client.post("/tokenize", json={"messages": [{"role": "user", "content": "Hi"}]}).json()
    assert chat["tokens"] == model.encode([{"role": "user", "content": "Hi"}])
    assert client.post("/tokenize", json={}).status_code == 400
    assert client.post("/detokenize", json={"tokens": [1024]}).status_code == 400


def test_the_document_lists_every_route(client):
    document = client.get("/openapi.json").json()
    assert {"/v1/completions", "/v1/chat/completions", "/tokenize", "/health", "/v1/models/{id}"} <= set(
        document["paths"]
    )
    references = json.dumps(document).count('"$ref"')
    assert references > 5
    for name in {one.split("/")[-1].rstrip('"') for one in json.dumps(document).split('"') if "#/components" in one}:
        assert name in document["components"]["schemas"]
