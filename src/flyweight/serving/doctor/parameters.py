"""Checks of every field of every body: no number, text or list that is too much for the server."""

import json
import math
from collections.abc import Iterator
from typing import Any

from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.judge import control_answer, expect_alive, judge
from flyweight.serving.doctor.schema import Field
from flyweight.serving.doctor.subject import Subject
from flyweight.serving.doctor.target import Answer

MARKER = "@@the value@@"
NUMBERS = ("-1", "0", "1", "1e308", "-1e308", "9223372036854775808", "-9223372036854775809", "0.5", "-0.0", "1e-320")
NO_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e400", '"1"', "true", "[]", "{}", "[1]", '"NaN"')
TELLING = ("-1", "1e308", "9223372036854775808", "NaN", '"1"')  # what a quick run tries inside lists and objects
SPECIAL = "<|endoftext|><|end|><|user|><|assistant|><|bos|><|im_start|><s>[INST]<image><|image_pad|>"
STRINGS = {
    "empty": '""',
    "NUL": '"\\u0000"',
    "a lone high surrogate": '"\\ud800"',
    "a lone low surrogate": '"\\udc00 x"',
    "special tokens": json.dumps(SPECIAL),
    "special tokens, many": json.dumps(SPECIAL * 200),
    "control characters": '"\\r\\n\\u001b[31m\\u0008"',
    "one that turns direction": '"\\u202e\\ufeff\\uffff"',
    "a path": '"../../../../etc/passwd"',
    "100 thousand characters": '"' + "a" * 100_000 + '"',
}
NO_STRINGS = ("1", "true", "[[]]", "{}")
LONG = '"' + "a" * 10_000_000 + '"'
MILLION = "[" + ",".join(["0"] * 1_000_000) + "]"
MILLION_TEXTS = "[" + ",".join(['"a"'] * 1_000_000) + "]"
UNKNOWN = ("guided_json", "best_of_", "use_beam_search", "prompt_embeds", "min_token", "__class__", "n_discard")
WHOLE_BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/completions", {"prompt": ""}),
    ("/v1/completions", {"prompt": []}),
    ("/v1/completions", {"prompt": [[]]}),
    ("/v1/completions", {"prompt": [-1]}),
    ("/v1/completions", {"prompt": [2**31]}),
    ("/v1/completions", {"prompt": [10**30]}),
    ("/v1/completions", {"prompt": ["a"] * 5000}),
    ("/v1/completions", {"prompt": ["a"] * 64, "n": 64}),
    ("/v1/completions", {"prompt": "a", "n": 1_000_000}),
    ("/v1/completions", {"prompt": "a", "best_of": 1_000_000}),
    ("/v1/completions", {"prompt": "a", "max_tokens": 1, "min_tokens": 2_000_000_000}),
    ("/v1/completions", {"prompt": "a", "max_tokens": 2_000_000_000, "min_tokens": 2_000_000_000}),
    ("/v1/completions", {"prompt": "a", "prompt_logprobs": -1}),
    ("/v1/completions", {"prompt": "a", "logprobs": 2_000_000, "echo": True}),
    ("/v1/completions", {"prompt": "a", "stop": ["a"] * 1_000_000}),
    ("/v1/completions", {"prompt": "a", "logit_bias": {"-1": 1}}),
    ("/v1/completions", {"prompt": "a", "logit_bias": {"99999999": 1}}),
    ("/v1/completions", {"prompt": "a", "logit_bias": {str(place): 1 for place in range(100_000)}}),
    ("/v1/completions", {"prompt": "a", "stop_token_ids": [-1]}),
    ("/v1/completions", {"prompt": "a", "cache_salt": "a" * 1_000_000}),
    ("/v1/chat/completions", {"messages": []}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 100_000}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": SPECIAL * 10_000}]}),
    ("/detokenize", {"tokens": [-1]}),
    ("/detokenize", {"tokens": [2**40]}),
)


def unbounded_parameters(subject: Subject, trials: Trials) -> None:
    """CVE-2026-34756 (`n`), `best_of`, CVE-2024-8768 (empty prompt kills engine), GHSA-87x5-vmc3-756j (prompt-list
    fan-out), `prompt_logprobs=-1` (local-inference-lab/vllm #264, #266), GHSA-4xqp-c3mv-qff7 (huge `min_tokens` stalls
    engine while /health says 200), CVE-2026-54235 (NaN/Inf temperature), GHSA-25q3-v2hm-8vpf (negative token ids),
    GHSA-wpww-v874-ph2p (`cache_salt` CPU DoS), GHSA-p92p-rxj5-7p2x (mm uuid), GHSA-823j-m4cj-hmjf, CVE-2026-44222
    (special-token placeholders), CVE-2026-44223 (penalties + hidden states), CVE-2025-46560 (quadratic placeholder),
    CVE-2026-9540, GHSA-x9pq-jx6q-p3qv (unreviewed); llama.cpp #19367 (sampling-param DoS), CVE-2026-21869 (negative
    `n_discard` OOB write)."""
    before = control_answer(subject.target)
    _whole_bodies_are_taken(subject, trials)
    for number, field in enumerate(subject.fields("integer", "number")):
        for value, allowed in _numbers(field):
            if not subject.full and len(field.path) > 1 and value not in TELLING:
                continue
            _try(subject, trials, field, value, value, allowed)
        if number % 20 == 19:
            expect_alive(trials, subject.target, before, f"numbers up to {field}")
    for field in subject.fields("string"):
        is_outer = subject.full or len(field.path) == 1
        for name, value in STRINGS.items():
            if is_outer or name in ("NUL", "a lone high surrogate", "special tokens"):
                _try(subject, trials, field, name, value, ())
        for value in NO_STRINGS if is_outer else NO_STRINGS[:1]:
            if not field.kinds & {"object", "array", "integer", "boolean"}:
                _try(subject, trials, field, value, value, (400,))
    for field in subject.fields("array"):
        _try(subject, trials, field, "[]", "[]", ())
        if subject.full or len(field.path) == 1:
            takes_many = (field.of_kind("array") or {}).get("maxItems", 0) >= 1_000_000 or field.takes_all
            _try(subject, trials, field, "a million numbers", MILLION, () if takes_many else (400, 413))
        if subject.full:
            _try(subject, trials, field, "a million texts", MILLION_TEXTS, (400, 413))
    expect_alive(trials, subject.target, before, "numbers, texts and lists")
    routes = {path for _, path in subject.document.operations}
    for route, body in WHOLE_BODIES:
        if route in routes:
            answer = subject.target.post(route, {"max_tokens": 1, **body} if route.startswith("/v1") else body)
            judge(trials, answer, f"{route} {body}", allowed=(400, 413) if "min_tokens" not in body else (200, 400))
    for route, schema in subject.document.bodies().items():
        whole = subject.document.smallest(schema)
        for name in UNKNOWN:
            answer = subject.target.post(route, {**whole, name: 1})
            judge(trials, answer, f"{route} with {name}", allowed=(400,))
            trials.expect(name in answer.message, tried=f"{route} with {name}", found=answer.message, wanted="its name")
    expect_alive(trials, subject.target, before, "bodies")


def long_texts(subject: Subject, trials: Trials) -> None:
    """A text of 10 MB in every field that takes one, and one just below what a body may have."""
    before = control_answer(subject.target)
    for field in subject.fields("string"):
        # A server that refuses a body while it is being sent may close before its answer is read.
        _try(subject, trials, field, "10 MB", LONG, (0, 400, 413))
    for field in subject.fields("string"):
        if field.path[-1] in ("prompt", "content", "text", "input", "instructions") and len(field.path) < 4:
            _try(subject, trials, field, "4 MB", '"' + "a b" * 1_333_333 + '"', (400, 413))
    expect_alive(trials, subject.target, before, "long texts")


def stated_limits(subject: Subject, trials: Trials) -> None:
    """Every number, text and list in the OpenAPI document has a finite bound (CVE-2026-34756 and its class)."""
    for field in subject.fields("integer", "number", "array"):
        for schema in field.schemas:
            kind = schema.get("type")
            if kind in ("integer", "number"):
                bound = schema.get("maximum", schema.get("exclusiveMaximum"))
                low = schema.get("minimum", schema.get("exclusiveMinimum"))
                holds = bound is not None and math.isfinite(bound) and low is not None
                trials.expect(
                    holds, tried=str(field), found=f"from {low} to {bound}", wanted="a lowest and highest value"
                )
            if kind == "array":
                most = schema.get("maxItems")
                trials.expect(most is not None, tried=str(field), found="any number of items", wanted="maxItems")


def _whole_bodies_are_taken(subject: Subject, trials: Trials) -> None:
    """Without a body that is answered, whatever is put into it would be refused for another reason."""
    for route, schema in subject.document.bodies().items():
        body = subject.document.smallest(schema)
        if {"max_tokens", "max_output_tokens"} & {*schema.get("properties", {})}:
            body["max_tokens" if "max_tokens" in schema["properties"] else "max_output_tokens"] = 1
        answer = subject.target.post(route, body)
        is_refused = route == "/v1/embeddings" and answer.status == 400  # a model that was not made to embed
        trials.expect(answer.status == 200 or is_refused, tried=f"{route} {body}", found=str(answer), wanted="200")


def _numbers(field: Field) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Values as JSON text, and the statuses that are right for each; none for whatever is no fault of the server."""
    schema = field.of_kind("integer", "number") or {}
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    for value in NUMBERS:
        number = float(value)
        outside = (low is not None and number < low) or (high is not None and number > high)
        yield value, (400,) if outside and len(field.schemas) <= 2 else ()
    if high is not None:
        yield json.dumps(high), ()
        yield json.dumps(high + 1), (400,) if len(field.schemas) <= 2 else ()
    yield "null", ()
    for value in NO_NUMBERS:
        takes = {"true": "boolean", "[]": "array", "[1]": "array", "{}": "object", '"1"': "string", '"NaN"': "string"}
        kind = takes.get(value)
        yield value, () if kind in field.kinds else (400,)


def _try(subject: Subject, trials: Trials, field: Field, name: str, value: str, allowed: tuple[int, ...]) -> Answer:
    whole = subject.document.body_for(field, MARKER)
    trials.expect(whole is not None, tried=str(field), found="no body holds it", wanted="a field that can be given")
    body = json.dumps(whole).replace(json.dumps(MARKER), value)
    answer = subject.target.ask("POST", field.route, body.encode("utf-8", "surrogatepass"))
    judge(trials, answer, f"{field} = {name}", allowed=allowed)
    return answer
