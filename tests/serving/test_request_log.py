"""Log lines stay on their line and in their field, whatever a client put into a value."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyweight.serving.request_log import MOST_CHARACTERS, format_line, safe

AT = 1_800_000_000.123456


def test_a_text_line():
    fields = {"event": "finished", "id": "chatcmpl-1", "seconds": 0.123456789, "tokens": 7, "param": None}
    assert format_line(fields, "line", at=AT) == (
        "2027-01-15T08:00:00.123Z event=finished id=chatcmpl-1 seconds=0.123457 tokens=7"
    )


def test_a_json_line():
    parsed = json.loads(format_line({"id": "a b", "seconds": 0.123456789, "code": None}, "json", at=AT))
    assert parsed == {"time": "2027-01-15T08:00:00.123Z", "id": "a b", "seconds": 0.123457}


@pytest.mark.parametrize(
    "attack",
    [
        "a\nb=1",
        "a\r\nevent=fake",
        "a\x1b[2Jb",
        "a\u2028b",
        "a\x85b",
        "a\u202eb",
        "a\ud800b",
        'a" event="fake',
        "a\\nb",
        "\0",
    ],
)
@pytest.mark.parametrize("form", ["line", "json"])
def test_nothing_leaves_its_line_or_field(attack, form):
    text = format_line({"id": attack, "event": "finished"}, form, at=AT)
    text.encode("utf-8")
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    assert "\u202e" not in text
    if form == "json":
        assert list(json.loads(text)) == ["time", "id", "event"]
    else:
        assert [field.partition("=")[0] for field in shlex.split(text)[1:]] == ["id", "event"]


def test_long_values_are_cut():
    assert safe("x" * 10_000) == "x" * MOST_CHARACTERS + "..."


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=())))
def test_any_text_becomes_one_printable_line(text):
    for form in ("line", "json"):
        line = format_line({"value": text, "after": 1}, form, at=AT)
        assert len(line.splitlines()) == 1
        line.encode("utf-8")
    assert len(shlex.split(format_line({"value": text, "after": 1}, "line", at=AT))) == 3
