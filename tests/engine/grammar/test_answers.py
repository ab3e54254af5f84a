"""The demo model's answers under constraints: generate, samples, speculation and batch files."""

import json

import jsonschema
import pytest

from flyweight import demo_model
from flyweight.engine.grammar.limits import GrammarLimits
from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.engine.load import load
from flyweight.engine.offline import batch
from flyweight.engine.sampling import SamplingOptions
from flyweight.engine.speculation.prompt_lookup import PromptLookup
from flyweight.errors import UsageError

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "kind": {"enum": ["alpha", "beta"]},
        "tags": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["name", "kind", "tags"],
    "additionalProperties": False,
}
ASK = [{"role": "user", "content": "Who lives in Eastlow?"}]


@pytest.fixture(scope="module")
def model():
    return load(str(demo_model.model_path()), cache_tokens=4096)


def test_samples_are_valid_json(model):
    options = SamplingOptions(temperature=1.5, top_k=0, top_p=1.0, seed=1, max_tokens=200)
    answers = model.generate([ASK, ASK], options, constraint=ConstraintSpec.json_schema(SCHEMA), samples=6)
    texts = [one.text for one in answers if one.finish_reason == "stop"]
    assert len(texts) == 12
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(texts)) > 3


def test_streams_and_unconstrained_answers_side_by_side(model):
    free = model.generate([ASK], SamplingOptions(max_tokens=12))[0]
    streams = [
        model.stream(ASK, SamplingOptions(max_tokens=12, logprobs=0), constraint=ConstraintSpec.choice(["yes", "no"])),
        model.stream(ASK, SamplingOptions(max_tokens=12)),
    ]
    texts = ["".join(piece.text for piece in one) for one in streams]
    assert texts[0] in ("yes", "no")
    assert texts[1] == free.text


def test_speculation_changes_nothing(model):
    spec = ConstraintSpec.json_schema(SCHEMA)
    options = SamplingOptions(temperature=1.0, seed=7, max_tokens=120)
    plain = model.generate([ASK], options, constraint=spec, samples=3)
    model.open_engine(proposer=PromptLookup())
    try:
        guessed = model.generate([ASK], options, constraint=spec, samples=3)
    finally:
        model.open_engine()
    assert [one.token_ids for one in guessed] == [one.token_ids for one in plain]


def test_a_compiled_constraint_may_be_given(model):
    compiled = model.grammars.compile(ConstraintSpec.regex("[a-c]{3}"))
    assert len(model.generate([ASK], constraint=compiled)[0].text) == 3


def test_limits_are_chosen_by_who_opens(model):
    model.open_grammars(GrammarLimits(source_bytes=5))
    try:
        with pytest.raises(UsageError, match="has 6 bytes and at most 5 are allowed"):
            model.ask(ASK, constraint=ConstraintSpec.regex("[a-c]+"))
    finally:
        model.open_grammars()


def test_batch_lines_have_constraints(tmp_path):
    def line(name, **body):
        body = {"model": "demo", "messages": ASK, "max_tokens": 100, **body}
        return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})

    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    (tmp_path / "in.jsonl").write_text(
        "\n".join(
            [
                line("schema", response_format=schema),
                line("choice", structured_outputs={"choice": ["red", "blue"]}),
                line("text", response_format={"type": "text"}),
                line("bad", structured_outputs={"regex": "("}),
                line("odd", response_format={"type": "xml"}),
            ]
        )
    )
    report = batch(tmp_path / "in.jsonl", tmp_path / "out.jsonl", model=demo_model.model_path(), cache_tokens=2048)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    results = {one["custom_id"]: one["response"]["body"] for one in map(json.loads, lines)}
    assert report.failed == 2
    jsonschema.validate(json.loads(results["schema"]["choices"][0]["message"]["content"]), SCHEMA)
    assert results["choice"]["choices"][0]["message"]["content"] in ("red", "blue")
    assert results["choice"]["choices"][0]["finish_reason"] == "stop"
    assert "structured_outputs.regex cannot be used as a constraint" in results["bad"]["error"]["message"]
    assert "response_format.type='xml' is unknown" in results["odd"]["error"]["message"]
