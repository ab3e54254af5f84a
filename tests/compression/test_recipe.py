"""Recipes: presets, YAML files, and every message about what is wrong with one."""

from pathlib import Path

import pytest

from flyweight.compression.methods.gptq import GptqOptions
from flyweight.compression.recipe import parse_recipe, preset_names, read_recipe
from flyweight.errors import RecipeError

EXAMPLES = Path(__file__).parents[2] / "recipes"

GOOD = """
description: mixed
calibration: text.txt
rules:
  - match: "*.down_proj"
    method: rtn
    format: {bits: 8, granularity: channel}
  - match: ["*.q_proj", "*.k_proj"]
    skip: true
  - match: "*"
    method: gptq
    format: {bits: 4, group_size: 64, symmetric: false, scale_dtype: float16}
    activations: int8
    options: {damping: 0.05, order: none}
"""


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, name="r", source="r.yaml", folder=None)
    return str(caught.value)


def test_every_preset_reads():
    assert {"int8", "int4", "gptq-int8", "gptq-int4", "gptq-int3", "w8a8"} <= set(preset_names())
    for name in preset_names():
        recipe = read_recipe(name)
        assert recipe.name == name
        assert recipe.description
        assert recipe.needs_calibration == name.startswith("gptq")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_reads(path):
    assert read_recipe(path).description


def test_there_are_examples():
    assert len(list(EXAMPLES.glob("*.yaml"))) >= 2


def test_a_file_is_read_completely(tmp_path):
    path = tmp_path / "mixed.yaml"
    path.write_text(GOOD)
    recipe = read_recipe(path)
    assert recipe.name == "mixed"
    assert recipe.calibration == tmp_path / "text.txt"
    down, kept, rest = recipe.rules
    assert down.scheme.format("bfloat16").name == "int8 channel"
    assert kept.match == ("*.q_proj", "*.k_proj")
    assert kept.method is None
    assert rest.options == GptqOptions(damping=0.05, order="none")
    assert rest.scheme.activations == "int8"
    assert rest.scheme.format("bfloat16").scale_dtype == "float16"
    assert down.scheme.format("bfloat16").scale_dtype == "bfloat16"


def test_group_size_can_be_replaced():
    recipe = read_recipe("gptq-int4").with_group_size(32)
    assert recipe.rules[0].scheme.group_size == 32
    with pytest.raises(RecipeError, match="group size 32 was asked for, but recipe 'int8' has no rule"):
        read_recipe("int8").with_group_size(32)


def test_unknown_preset():
    with pytest.raises(RecipeError, match=r"unknown recipe 'gptq-int5'; presets: .*; did you mean 'gptq-int"):
        read_recipe("gptq-int5")


def test_missing_file(tmp_path):
    with pytest.raises(RecipeError, match=r"recipe .*none.yaml cannot be read: No such file or directory"):
        read_recipe(tmp_path / "none.yaml")


def test_file_that_is_not_text(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read: not UTF-8 text"):
        read_recipe(path)


RULE = "rules:\n  - {match: '*', method: gptq, format: {bits: 4, group_size: 32}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [", "r.yaml: not valid YAML"),
        ("- a", "r.yaml: must be a mapping of names to values"),
        ("rule: []", "r.yaml: unknown key 'rule'; known: description, rules, calibration; did you mean 'rules'?"),
        ("rules: []", "r.yaml: 'rules' must be a list of at least one rule"),
        ("calibration: 3\n" + RULE + "}", "r.yaml: 'calibration' must be the path of a text file"),
        ("rules: [{}]", "r.yaml: rule 1: needs 'match', a glob over module paths (such as 'model.layers.*')"),
        ("rules: [{match: '*'}]", "r.yaml: rule 1: needs 'method' and 'format', or 'skip: true'"),
        ("rules: [{match: '*', skip: 1}]", "r.yaml: rule 1: 'skip' must be true or false"),
        (
            "rules: [{match: '*', skip: true, method: rtn}]",
            "r.yaml: rule 1: a rule with 'skip: true' takes no 'method'; remove it or remove 'skip'",
        ),
        (RULE + ", metod: 3}", "r.yaml: rule 1: unknown key 'metod'; known: match, skip, method"),
        (
            RULE.replace("gptq", "gtpq") + "}",
            "r.yaml: rule 1: unknown method 'gtpq'; known: gptq, rtn; did you mean 'gptq'?",
        ),
        (RULE.replace("bits: 4", "bit: 4") + "}", "r.yaml: rule 1: format: unknown key 'bit'; known: bits"),
        (RULE.replace("bits: 4, ", "") + "}", "r.yaml: rule 1: format needs 'bits'"),
        (RULE.replace("bits: 4", "bits: four") + "}", "r.yaml: rule 1: format: bits='four' must be a whole number"),
        (RULE.replace("bits: 4", "bits: 9") + "}", "r.yaml: rule 1: bits=9 is not supported for integer weights"),
        (
            RULE.replace("group_size: 32", "group_size: 32, granularity: channel") + "}",
            "r.yaml: rule 1: group_size=32 contradicts granularity 'channel'; leave it out",
        ),
        (RULE + ", activations: int4}", "r.yaml: rule 1: activations='int4' is unknown; choose float or int8"),
        (
            RULE + ", options: {dampin: 0.1}}",
            "r.yaml: rule 1: options: unknown key 'dampin'; known: damping, shrinkage, correct, correct_from",
        ),
        (RULE + ", options: {damping: 7}}", "r.yaml: rule 1: damping=7 must be above 0 and at most 1; 0.01 is usual"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    assert refused(text).startswith(message)
