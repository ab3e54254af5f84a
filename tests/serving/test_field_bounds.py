"""Every number and name of every body, by the bounds that are written down here: a bound that moves moves knowingly."""

import math

import pytest

from flyweight.serving.api_errors import ApiError
from flyweight.serving.doctor.schema import Document, Field
from flyweight.serving.http.app import operations
from flyweight.serving.http.openapi import openapi_document
from flyweight.serving.protocol.body import Body, parse_body
from flyweight.serving.protocol.chat import ChatBody
from flyweight.serving.protocol.completions import CompletionBody
from flyweight.serving.protocol.embeddings import EmbeddingBody
from flyweight.serving.protocol.messages import CountBody, MessagesBody
from flyweight.serving.protocol.responses import ResponseBody
from flyweight.serving.protocol.tokens import DetokenizeBody, TokenizeBody

BODIES: dict[str, type[Body]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/responses": ResponseBody,
    "/v1/embeddings": EmbeddingBody,
    "/v1/messages": MessagesBody,
    "/v1/messages/count_tokens": CountBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}
TOKEN = 2**31 - 1
# The lowest and the highest value; of "above" the lowest is not one of them.
NUMBERS = {
    "temperature": (0, 2),
    "/v1/messages temperature": (0, 1),
    "top_p": ("above", 0, 1),
    "top_k": (-1, TOKEN),
    "/v1/messages top_k": (0, TOKEN),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": ("above", 0, 10),
    "seed": (0, 2**63 - 1),
    "n": (1, 64),
    "best_of": (1, 1),
    "max_tokens": (1, TOKEN),
    "/v1/completions max_tokens": (0, TOKEN),
    "max_completion_tokens": (1, TOKEN),
    "max_output_tokens": (1, TOKEN),
    "min_tokens": (0, TOKEN),
    "logprobs": (0, 20),
    "top_logprobs": (0, 20),
    "priority": (-(2**31), TOKEN),
    "dimensions": (1, TOKEN),
}
NAMES = dict.fromkeys(
    (
        "model", "user", "cache_salt", "previous_response_id", "prompt_cache_key", "safety_identifier", "name",
        "tool_call_id", "tool_use_id", "call_id", "user_id", "status", "phase", "id",
    ),
    256,
)  # fmt: skip
TEXTS = {"stop": 1024, "stop_sequences": 1024, "bad_words": 1024}  # each text of these lists, at least one character
NO_NUMBERS = (math.nan, math.inf, -math.inf, "1", "", "NaN", True, False, [], [1], {})
NO_TEXTS = (1, 0.5, True, [[]], {"a": 1})
MARKER = "@@the value@@"

document = Document(openapi_document(operations(), open_paths=frozenset()))
fields = document.fields()


def name_of(field: Field) -> str:
    return str(next(part for part in reversed(field.path) if isinstance(part, str)))


def listed(field: Field, table: dict) -> object:
    return table.get(f"{field.route} {name_of(field)}", table.get(name_of(field)))


def given(field: Field, value: object) -> object:
    """A whole body with this value in the field."""

    def put(found: object) -> object:
        if found == MARKER:
            return value
        if isinstance(found, dict):
            return {name: put(inner) for name, inner in found.items()}
        return [put(inner) for inner in found] if isinstance(found, list) else found

    whole = put(document.body_for(field, MARKER))
    for message in whole.get("messages", ()) if isinstance(whole, dict) else ():
        message.setdefault("content", "a")  # the smallest message that the document allows has none, and is refused
    return whole


def takes(field: Field, value: object) -> bool:
    """Whether nothing is said against the field."""
    try:
        parse_body(BODIES[field.route], given(field, value), lenient=False)
    except ApiError as error:
        return error.status != 400 or name_of(field) not in error.message
    return True


def require(holds: bool, what: str) -> None:
    if not holds:
        pytest.fail(what)


outer = [field for field in fields if len(field.path) == 1]
numbers = [field for field in outer if field.kinds <= {"integer", "number", "null"} and listed(field, NUMBERS)]
names = [field for field in outer if field.kinds <= {"string", "null"} and listed(field, NAMES)]
texts = [field for field in outer if "array" in field.kinds and listed(field, TEXTS)]


def test_the_tables_name_fields_that_there_are():
    seen = {key for field in fields for key in (name_of(field), f"{field.route} {name_of(field)}")}
    assert {*NUMBERS, *NAMES, *TEXTS} <= seen
    assert {str(field) for field in texts} == {
        "/v1/chat/completions stop",
        "/v1/chat/completions bad_words",
        "/v1/completions stop",
        "/v1/completions bad_words",
        "/v1/messages stop_sequences",
    }
    assert len(numbers) > 30
    assert len(names) > 15
    assert {field.route for field in fields} == {*BODIES}


@pytest.mark.parametrize("field", numbers, ids=str)
def test_numbers(field):
    *above, low, high = listed(field, NUMBERS)
    is_integer = "integer" in field.kinds
    for value in (low, high):
        require(takes(field, value) or (above and value == low), f"{field} = {value} is refused")
    require(not above or not takes(field, low), f"{field} = {low} is taken")
    beyond = [low - 1, high + 1, 1e308, -1e308, 2**63, -(2**63) - 1, *NO_NUMBERS]
    for value in [*beyond, *([low + 0.5] if is_integer else [math.nextafter(high, math.inf)])]:
        require(not takes(field, value), f"{field} = {value!r} is taken; it goes from {low} to {high}")
    require(takes(field, None) == ("null" in field.kinds), f"{field} = null")


@pytest.mark.parametrize("field", names, ids=str)
def test_names(field):
    most = listed(field, NAMES)
    require(takes(field, "a" * most), f"{field} of {most} characters is refused")
    require(not takes(field, "a" * (most + 1)), f"{field} of {most + 1} characters is taken")
    for value in NO_TEXTS:
        require(not takes(field, value), f"{field} = {value!r} is taken")


@pytest.mark.parametrize("field", texts, ids=str)
def test_texts_of_lists(field):
    most = listed(field, TEXTS)
    wraps = [lambda text: [text], lambda text: ["b", text], *([lambda text: text] if "string" in field.kinds else [])]
    for wrap in wraps:
        require(takes(field, wrap("a" * most)), f"{field}: a text of {most} characters is refused")
        require(not takes(field, wrap("a" * (most + 1))), f"{field}: a text of {most + 1} characters is taken")
        require(not takes(field, wrap("")), f"{field}: an empty text is taken")


class Unbounded(Body):
    """A number without bounds of its own, which refuse NaN and infinities too."""

    number: float
    listed: list[float]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_body_takes_what_is_not_finite(value):
    parse_body(Unbounded, {"number": 1.5, "listed": [1.5]}, lenient=False)
    for given in ({"number": value, "listed": []}, {"number": 1.5, "listed": [value]}):
        with pytest.raises(ApiError, match="finite number"):
            parse_body(Unbounded, given, lenient=False)


@pytest.mark.parametrize("route", BODIES)
def test_unknown_fields(route):
    whole = document.smallest(document.bodies()[route])
    with pytest.raises(ApiError) as refused:
        parse_body(BODIES[route], {**whole, "best_off": 1}, lenient=False)
    require(refused.value.status == 400 and "best_off" in refused.value.message, refused.value.message)
