"""Lines of a batch file: what is understood, and what is refused by name."""

import json
from typing import Any

import pytest

from flyweight.engine.batch_format import LineError, answer_line, error_line, parse_line
from flyweight.engine.generation import Completion, Timings, Usage
from flyweight.engine.sampling import TokenLogProbability

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "m", "prompt": "hi"}


def line(body: dict[str, Any], **changed: Any) -> str:
    url = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    return json.dumps({"custom_id": "a", "method": "POST", "url": url, "body": body} | changed)


def test_fields_reach_the_options() -> None:
    body = {
        **CHAT,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "seed": 3,
        "stop": "x",
        "stop_token_ids": [4],
        "logit_bias": {"7": -100},
        "max_completion_tokens": 9,
        "min_tokens": 2,
        "n": 3,
        "logprobs": True,
        "top_logprobs": 2,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "repetition_penalty": 1.1,
        "ignore_eos": True,
        "allowed_token_ids": [3, 4],
        "bad_words": ["no"],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "prompt_logprobs": 2,
        "truncate_prompt_tokens": -1,
        "stream": False,
        "user": "u",
        "metadata": {},
    }
    request = parse_line(line(body), max_tokens=77)
    options = request.options
    assert (options.temperature, options.top_p, options.top_k, options.min_p, options.seed) == (0.5, 0.9, 5, 0.1, 3)
    assert (options.stop, options.stop_token_ids, options.logit_bias) == (("x",), (4,), ((7, -100),))
    assert (options.max_tokens, options.min_tokens, options.logprobs, options.ignore_eos) == (9, 2, 2, True)
    assert (options.frequency_penalty, options.presence_penalty, options.repetition_penalty) == (0.5, -0.5, 1.1)
    assert (options.allowed_token_ids, options.bad_words) == ((3, 4), ("no",))
    assert (options.include_stop_str_in_output, options.skip_special_tokens) == (True, False)
    assert (request.prompt_logprobs, request.truncate_prompt_tokens) == (2, -1)
    assert (request.num_answers, request.prompts, request.is_chat) == (3, (CHAT["messages"],), True)
    assert parse_line(line(CHAT), max_tokens=77).options.max_tokens == 77
    plain = parse_line(line(CHAT), max_tokens=77)
    assert plain.options.temperature is None
    assert (plain.prompt_logprobs, plain.truncate_prompt_tokens, plain.options.skip_special_tokens) == (
        None,
        None,
        True,
    )
    assert parse_line(line({**CHAT, "top_k": -1}), max_tokens=1).options.top_k == 0


@pytest.mark.parametrize(("prompt", "prompts"), [("hi", ("hi",)), ([1, 2], ([1, 2],)), (["a", "b"], ("a", "b"))])
def test_prompts_of_completions(prompt: Any, prompts: Any) -> None:
    assert parse_line(line({"model": "m", "prompt": prompt}), max_tokens=1).prompts == prompts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the line is not JSON"),
        ("[" * 100_000, "the line is not JSON"),
        ("[1]", "the line is a JSON list; an object with custom_id, method, url, body is needed"),
        (line(CHAT, custom_id=5), "custom_id must be a text of 1 to 512 characters"),
        (line(CHAT, custom_id=""), "custom_id must be a text of 1 to 512 characters"),
        (line(CHAT, metod="POST"), "the line has an unknown field 'metod'; did you mean 'method'?"),
        (line(CHAT, method="GET"), "method='GET' is not possible; it must be 'POST'"),
        (line(CHAT, url="/v1/embeddings"), "url='/v1/embeddings' is not served; choose /v1/chat/completions or"),
        (
            json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": [1]}),
            "body must be an object",
        ),
        (line({**CHAT, "temprature": 1}), "the body has an unknown field 'temprature'; did you mean 'temperature'?"),
        (line({**CHAT, "tools": []}), "the body has an unknown field 'tools'"),
        (line({**CHAT, "prompt": "x"}), "the body has an unknown field 'prompt'"),
        (line({**CHAT, "stream": True}), "stream=True is not supported in a batch; leave it out"),
        (line({**CHAT, "temperature": 9}), "temperature=9 is out of range; choose 0 to 2"),
        (line({**CHAT, "temperature": "1"}), "temperature='1' is not a finite number"),
        (line({**CHAT, "max_tokens": 1.5}), "max_tokens=1.5 is not allowed"),
        (line({**CHAT, "max_tokens": 1, "max_completion_tokens": 2}), "max_tokens and max_completion_tokens differ"),
        (line({**CHAT, "n": 0}), "n=0 is not allowed; choose 1 to 64"),
        (line({**CHAT, "n": 65}), "n=65 is not allowed; choose 1 to 64"),
        (line({**CHAT, "stop": [1]}), "is not allowed; give non-empty strings"),
        (line({**CHAT, "stop": 5}), "stop must be a text or a list of texts"),
        (line({**CHAT, "logit_bias": {"x": 1}}), "logit_bias must be an object of token ids and numbers"),
        (line({**CHAT, "logit_bias": {"1": "x"}}), "logit_bias of token 1='x' is not a finite number"),
        (line({**CHAT, "logprobs": 3}), "logprobs=3 is not a boolean; top_logprobs says how many"),
        (line({**CHAT, "top_logprobs": 3}), "top_logprobs needs logprobs=true"),
        (line({**TEXT, "logprobs": 30}), "logprobs=30 is not allowed; choose 0 to 20"),
        (line({**TEXT, "echo": True}), "echo=True is not supported in a batch"),
        (line({**TEXT, "prompt": []}), "prompt must be a text, a list of token ids, or a list of 1 to 64 texts"),
        (line({**TEXT, "prompt": ["x"] * 65}), "prompt must be a text, a list of token ids"),
        (line({"prompt": "x"}), "the body needs model, a text"),
        (line({**CHAT, "messages": []}), "messages must be a list of at least one object"),
        (line({**CHAT, "messages": [{"content": "x"}]}), "messages[0] has no role"),
        (line({**CHAT, "ignore_eos": 1}), "ignore_eos=1 is not a boolean"),
        (line({**CHAT, "skip_special_tokens": "no"}), "skip_special_tokens='no' is not a boolean"),
        (line({**TEXT, "include_stop_str_in_output": 0}), "include_stop_str_in_output=0 is not a boolean"),
        (line({**CHAT, "allowed_token_ids": []}), "allowed_token_ids=[] would allow nothing"),
        (line({**CHAT, "allowed_token_ids": 5}), "allowed_token_ids=5 is not a list"),
        (line({**CHAT, "allowed_token_ids": [-1]}), "allowed_token_ids=-1 is not allowed; choose token ids from 0 on"),
        (line({**CHAT, "bad_words": "no"}), "bad_words='no' is not a list"),
        (line({**CHAT, "bad_words": [" "]}), "give texts that are not only spaces"),
        (line({**CHAT, "stop_token_ids": "5"}), "stop_token_ids='5' is not a list"),
        (line({**TEXT, "prompt_logprobs": 21}), "prompt_logprobs=21 is not allowed; choose 0 to 20"),
        (line({**CHAT, "prompt_logprobs": True}), "prompt_logprobs=True is not allowed"),
        (
            line({**CHAT, "truncate_prompt_tokens": 0}),
            "truncate_prompt_tokens=0 is not possible; choose 1 or more, or -1",
        ),
        (line({**CHAT, "truncate_prompt_tokens": "5"}), "truncate_prompt_tokens='5' is not possible"),
        (line({**CHAT, "truncate_prompt_tokens": True}), "truncate_prompt_tokens=True is not possible"),
    ],
)
def test_what_cannot_be_done_is_named(text: str, message: str) -> None:
    with pytest.raises(LineError) as caught:
        parse_line(text, max_tokens=10)
    assert message in str(caught.value)
    if text.startswith('{"custom_id": "a"'):
        assert caught.value.custom_id == "a"


COMPLETION = Completion(
    text="one two",
    token_ids=(3, 4),
    finish_reason="length",
    stop_string=None,
    usage=Usage(prompt_tokens=5, completion_tokens=2),
    timings=Timings(prefill_seconds=1, decode_seconds=1),
    log_probabilities=(
        TokenLogProbability(token=3, log_probability=-0.5, top=((3, -0.5), (9, -1.5))),
        TokenLogProbability(token=4, log_probability=-2.0, top=((9, -0.1), (4, -2.0))),
    ),
)


def token(token_id: int) -> str:
    return {3: "one", 4: " two", 9: "\ufffd"}[token_id]


def test_answers_have_the_shape_of_the_interface() -> None:
    request = parse_line(line({**CHAT, "n": 2, "logprobs": True, "top_logprobs": 2}), max_tokens=2)
    result = answer_line(7, request, [COMPLETION, COMPLETION], created=1, token=token)
    assert (result["custom_id"], result["error"], result["response"]["status_code"]) == ("a", None, 200)
    body = result["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", "m")
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}  # the prompt counts once
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["choices"][1]["message"] == {"role": "assistant", "content": "one two"}
    entry = body["choices"][0]["logprobs"]["content"][0]
    assert (entry["token"], entry["logprob"], entry["bytes"]) == ("one", -0.5, [111, 110, 101])
    assert entry["top_logprobs"][1] == {"token": "\ufffd", "logprob": -1.5, "bytes": None}

    text = answer_line(8, parse_line(line({**TEXT, "logprobs": 2}), max_tokens=2), [COMPLETION], created=1, token=token)
    choice = text["response"]["body"]["choices"][0]
    assert choice["text"] == "one two"
    assert choice["logprobs"]["token_logprobs"] == [-0.5, -2.0]
    assert choice["logprobs"]["text_offset"] == [0, 3]


def test_the_scores_of_prompts_stand_where_the_server_has_them() -> None:
    scores = (TokenLogProbability(token=4, log_probability=-2.0, top=((9, -0.1),)),)
    written = [
        None,
        {
            "9": {"logprob": -0.1, "rank": 1, "decoded_token": "\ufffd"},
            "4": {"logprob": -2.0, "rank": None, "decoded_token": " two"},
        },
    ]
    chat = parse_line(line({**CHAT, "prompt_logprobs": 1}), max_tokens=2)
    body = answer_line(1, chat, [COMPLETION], created=1, token=token, prompt_scores=[scores])["response"]["body"]
    assert body["prompt_logprobs"] == written
    assert "prompt_logprobs" not in body["choices"][0]
    text = parse_line(line({**TEXT, "prompt": ["a", "b"], "n": 2, "prompt_logprobs": 1}), max_tokens=2)
    body = answer_line(1, text, [COMPLETION] * 4, created=1, token=token, prompt_scores=[scores, ()])["response"][
        "body"
    ]
    assert "prompt_logprobs" not in body
    assert [choice["prompt_logprobs"] for choice in body["choices"]] == [written, written, [None], [None]]


def test_errors_say_it_twice_for_both_kinds_of_reader() -> None:
    result = error_line(3, LineError("no", param="n", custom_id="a"))
    assert result["error"] == {"code": "invalid_request", "message": "no"}
    assert result["response"]["status_code"] == 400
    assert result["response"]["body"]["error"]["param"] == "n"
