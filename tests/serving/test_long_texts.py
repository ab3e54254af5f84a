"""Texts of 10 MB, at the bound that stands before the tokenizer: nothing tokenizes, and no body's size refuses them."""

import pytest
from support.served import served

from flyweight import load
from flyweight.demo_model import model_path
from flyweight.engine.sampling import SamplingOptions
from flyweight.serving.api_errors import CONTEXT_LENGTH, ApiError
from flyweight.serving.asks import Ask, Conversation, Owner, Text
from flyweight.serving.limits import ServerLimits
from flyweight.serving.prompts import encode, prepare

LONG = "a b" * 3_333_334


@pytest.fixture(scope="module")
def model():
    return load(model_path())


@pytest.fixture
def untouched(model, monkeypatch):
    """The model, whose tokenizer says so when it is given a text."""

    def fail(self, text, **_more):
        raise AssertionError(f"{len(text)} characters were tokenized")

    monkeypatch.setattr(type(model.tokenizer), "encode", fail)
    return model


def message(content):
    return Conversation(messages=[{"role": "user", "content": content}])


def refused(call):
    with pytest.raises(ApiError) as caught:
        call()
    assert (caught.value.status, caught.value.code) == (400, CONTEXT_LENGTH)
    return caught.value


def test_text_is_measured_before_it_is_tokenized(untouched):
    error = refused(lambda: encode(untouched, Text(text="x" * 101), most_characters=100))
    assert error.message == "the text has 101 characters and 100 are allowed; shorten it"
    assert error.param == "prompt"
    assert refused(lambda: encode(untouched, message("x" * 101), most_characters=100)).param == "messages"
    with pytest.raises(AssertionError, match="100 characters were tokenized"):
        encode(untouched, Text(text="x" * 100), most_characters=100)


def ask(prompt, **fields):
    return Ask(
        **{
            "request_id": "r1",
            "owner": Owner(),
            "prompts": [prompt],
            "samples": 1,
            "options": SamplingOptions(),
            "max_tokens": 1,
            **fields,
        }
    )


def prepared(model, of):
    return prepare(model, of, ServerLimits(), engine_priority=False, constraint=None)


@pytest.mark.parametrize("prompt", [Text(text=LONG), message(LONG)], ids=["text", "conversation"])
def test_a_prompt_of_10_mb(untouched, prompt):
    most = untouched.context_length * untouched.tokenizer.longest_token
    assert f"and {most} are allowed" in refused(lambda: prepared(untouched, ask(prompt))).message


def test_a_prompt_of_10_mb_that_may_be_cut(untouched):
    error = refused(lambda: prepared(untouched, ask(Text(text=LONG), truncate_prompt_tokens=5)))
    assert "and 1000000 are allowed" in error.message


def test_a_text_that_fits_by_its_characters_is_tokenized(model):
    text = "a" * (model.context_length * model.tokenizer.longest_token)
    with pytest.raises(ApiError, match=f"this model's context holds {model.context_length} tokens and the prompt has"):
        prepared(model, ask(Text(text=text)))


def test_a_text_to_tokenize(model):
    limits = ServerLimits(tokenized_characters=100)
    with served({"demo": model}, limits=limits) as server, server.client() as client:
        assert client.post("/tokenize", json={"prompt": "x" * 100}).status_code == 200
        answer = client.post("/tokenize", json={"prompt": "x" * 101})
    assert answer.status_code == 400
    assert "the text has 101 characters and 100 are allowed" in answer.json()["error"]["message"]
