"""The reader of config values: every refusal names the key, what it held and what it must be."""

import math

import pytest

from flyweight.errors import CheckpointError, UnsupportedModelError
from flyweight.models.config import ConfigReader


def test_values_of_the_right_type_come_back() -> None:
    config = ConfigReader(
        {"n": 3, "x": 1, "f": True, "s": "a", "v": [1, 2.5], "b": [1, 0, True], "t": ["a"], "i": [3, 4], "o": {"k": 1}}
    )
    assert config.integer("n") == 3
    assert config.number("x") == 1.0
    assert config.boolean("f", False) is True
    assert config.text("s") == "a"
    assert config.numbers("v", length=2) == (1.0, 2.5)
    assert config.flags("b", minimum_length=2) == (True, False, True)
    assert config.texts("t") == ("a",)
    assert config.token_ids("i") == (3, 4)
    assert config.section("o").integer("k") == 1
    assert config.unread() == ()


def test_defaults_stand_in_for_absence_and_null() -> None:
    config = ConfigReader({"n": None})
    assert config.integer("n", 7) == config.integer("m", 7) == 7
    assert config.token_ids("n", (2,)) == (2,)
    assert config.texts("n") == ()
    assert not config.has("n")
    assert config.mentions("n")
    assert not config.mentions("m")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.integer("absent"), "config.json lacks absent, which this architecture needs"),
        (lambda c: c.integer("null"), "config.json lacks null"),
        (lambda c: c.integer("text"), "text='ten' in config.json must be a whole number"),
        (lambda c: c.integer("flag"), "flag=True in config.json must be a whole number"),
        (lambda c: c.integer("half"), r"half=0.5 in config.json must be a whole number"),
        (lambda c: c.integer("zero"), "zero=0 in config.json must be a whole number of at least 1"),
        (lambda c: c.integer("huge"), "huge=1000000000000000 in config.json must be a whole number of at least 1"),
        (lambda c: c.number("text"), "text='ten' in config.json must be a number"),
        (lambda c: c.number("zero"), "zero=0 in config.json must be a number above 0"),
        (lambda c: c.number("nan"), "nan=nan in config.json must be a number above 0"),
        (lambda c: c.number("infinity"), "infinity=inf in config.json must be a number above 0"),
        (lambda c: c.boolean("half", True), "half=0.5 in config.json must be true or false"),
        (lambda c: c.text("zero"), "zero=0 in config.json must be a string"),
        (lambda c: c.numbers("list", length=3), r"list=\[1, 2\] in config.json must be a list of 3 positive numbers"),
        (lambda c: c.flags("list", minimum_length=2), "must be a list of at least 2 zeros and ones"),
        (lambda c: c.texts("list"), "must be a list of strings"),
        (lambda c: c.token_ids("text"), "text='ten' in config.json must be a token id or a list of token ids"),
        (lambda c: c.section("list"), "must be an object"),
        (lambda c: c.section("object").integer("k"), "k='v' in object of config.json must be a whole number"),
        (lambda c: c.section("absent", required=True), "lacks absent"),
    ],
)
def test_wrong_values_are_named(call, message) -> None:
    values = {
        "null": None,
        "text": "ten",
        "flag": True,
        "half": 0.5,
        "zero": 0,
        "huge": 10**15,
        "nan": math.nan,
        "infinity": math.inf,
        "list": [1, 2],
        "object": {"k": "v"},
    }
    with pytest.raises(CheckpointError, match=message):
        call(ConfigReader(values))


def test_expect_refuses_other_values_and_says_why() -> None:
    config = ConfigReader({"a": True, "b": 1})
    config.expect("a", True, reason="-")
    config.expect("absent", 3, reason="-")
    with pytest.raises(
        UnsupportedModelError, match=r"a=True in config.json is not supported \(why\); supported: False"
    ):
        config.expect("a", False, reason="why")
    with pytest.raises(UnsupportedModelError, match=r"b=1 .*supported: leaving it out"):
        config.expect("b", reason="why")


def test_unread_keys_are_told_but_not_harmless_ones() -> None:
    config = ConfigReader({"used": 1, "torch_dtype": "float16", "null": None, "odd": 1, "part": {"odd": 2, "used": 1}})
    config.integer("used")
    config.section("part").integer("used")
    assert config.unread() == ("odd", "part.odd")


def test_long_values_are_shortened() -> None:
    with pytest.raises(CheckpointError) as caught:
        ConfigReader({"k": ["x" * 50] * 50}).integer("k")
    assert len(str(caught.value)) < 200
