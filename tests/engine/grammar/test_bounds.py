"""Sources are measured before they are compiled."""

import time

import pytest

from flyweight.engine.grammar.bounds import check_bounds, nesting, repetitions
from flyweight.engine.grammar.limits import GrammarLimits
from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.errors import UsageError

LIMITS = GrammarLimits()


def test_nesting_counts_brackets_outside_texts():
    assert nesting("3") == 0
    assert nesting('{"a":[1,{"b":[]}],"c":{}}') == 4
    assert nesting('["[[[[", "\\"[[", {}]') == 2


@pytest.mark.parametrize(
    ("pattern", "times"),
    [
        ("abc", 1),
        (r"\d{4}-\d{2}-\d{2}", 4),
        ("(a{10}b){20}", 200),
        ("((a{2}){3}){4}x{5}", 24),
        ("a{2}{3}", 6),
        ("a{2,}", 2),
        ("a{2,7}", 7),
        (r"a\{900}", 1),
        ("[{900}]", 1),
        ("[]{900}]", 1),
        (r"[\]{900}]{3}", 3),
        ("(a{99)", 1),
        ("a{999999999999}", 999999999),
        (")){3}", 3),
    ],
)
def test_repetitions(pattern, times):
    assert repetitions(pattern) == times


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ConstraintSpec.regex("a" * 300_000), "has 300000 bytes and at most 262144 are allowed"),
        (ConstraintSpec.regex("a" * 5000), "regex has 5000 bytes and at most 4096 are allowed in one pattern"),
        (ConstraintSpec.regex("(a{1000}){1000}"), "repeats a part 1000000 times and at most 20000"),
        (ConstraintSpec.choice(["x"] * 6000), "choice has 6000 values and at most 5000"),
        (ConstraintSpec.choice(["x" * 20000]), "value 0 has 20000 bytes"),
        (
            ConstraintSpec.json_schema('{"items":' * 80 + "{}" + "}" * 80),
            "nested 81 levels deep and at most 64 are allowed",
        ),
        (ConstraintSpec.json_schema({"enum": ["x" * 1000] * 1000}), "has 1003010 bytes and at most 262144 are allowed"),
        (ConstraintSpec.json_schema({"enum": [f"x{n:09}" for n in range(6000)]}), "/enum has 6000 values"),
        (ConstraintSpec.json_schema({"properties": {"a/b": {"const": "x" * 20000}}}), "at /properties/a~1b/const"),
        (ConstraintSpec.json_schema({"items": {"pattern": "a" * 5000}}), "at /items/pattern has 5000 bytes"),
        (ConstraintSpec.json_schema({"patternProperties": {"a{99999}": {}}}), "patternProperties repeats a part"),
        (ConstraintSpec.json_schema({"x-guidance": {"lenient": True}}), "at /: x-guidance is not allowed"),
    ],
)
def test_what_is_too_large(spec, message):
    with pytest.raises(UsageError, match=message):
        check_bounds(spec, LIMITS)


@pytest.mark.parametrize(
    ("limits", "make", "most"),
    [
        ({"source_bytes": 100}, lambda count: ConstraintSpec.lark("x" * count), 100),
        ({"source_bytes": 100}, lambda count: ConstraintSpec.lark("é" * (count // 2) + "x" * (count % 2)), 100),
        ({"nesting": 5}, lambda count: ConstraintSpec.json_schema('{"items":' * count + "1" + "}" * count), 5),
        ({"enum_values": 3}, lambda count: ConstraintSpec.choice([f"a{place}" for place in range(count)]), 3),
        ({"enum_values": 3}, lambda count: ConstraintSpec.json_schema({"items": {"enum": list(range(count))}}), 3),
        ({"literal_bytes": 9}, lambda count: ConstraintSpec.choice(["a" * count]), 9),
        ({"literal_bytes": 9}, lambda count: ConstraintSpec.json_schema({"enum": [1, "a" * count]}), 9),
        ({"literal_bytes": 9}, lambda count: ConstraintSpec.json_schema({"const": "a" * count}), 9),
        ({"pattern_bytes": 9}, lambda count: ConstraintSpec.regex("a" * count), 9),
        ({"pattern_bytes": 9}, lambda count: ConstraintSpec.json_schema({"pattern": "a" * count}), 9),
        ({"repetitions": 9}, lambda count: ConstraintSpec.regex(f"a{{{count}}}"), 9),
        ({"repetitions": 9}, lambda count: ConstraintSpec.json_schema({"patternProperties": {f"a{{{count}}}": {}}}), 9),
    ],
)  # fmt: skip
def test_each_bound_by_itself(limits, make, most):
    """All others are as large as ever, so that none of them refuses in its place."""
    check_bounds(make(most), GrammarLimits(**limits))
    with pytest.raises(UsageError):
        check_bounds(make(most + 1), GrammarLimits(**limits))
    check_bounds(make(most + 1), LIMITS)


def test_a_deep_source_is_measured_without_going_deep():
    began = time.thread_time()
    deep = ConstraintSpec(kind="json_schema", source="[" * 100_000 + "]" * 100_000)
    with pytest.raises(UsageError, match="nested 100000 levels"):
        check_bounds(deep, LIMITS)
    assert time.thread_time() - began < 2


def test_limits_are_above_zero():
    with pytest.raises(UsageError, match="nesting=0 is not allowed; choose a number above 0"):
        GrammarLimits(nesting=0)
