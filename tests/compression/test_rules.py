"""A recipe held against a model's layers: who wins, and what is refused before a weight is read."""

import pytest

from flyweight.compression.recipe import parse_recipe, read_recipe
from flyweight.compression.rules import group_by_format, resolve
from flyweight.errors import RecipeError
from flyweight.models.spec import LinearSpec

LAYERS = tuple(
    LinearSpec(name=f"model.layers.{i}.{part}", in_features=features, out_features=64)
    for i in range(2)
    for part, features in (("self_attn.q_proj", 64), ("mlp.down_proj", 96))
)
HEAD = LinearSpec(name="lm_head", in_features=64, out_features=128)


def recipe(*rules: str):
    return parse_recipe("rules:\n" + "".join(f"  - {rule}\n" for rule in rules), name="r", source="r", folder=None)


INT4 = "method: rtn, format: {bits: 4, group_size: 32}"
INT8 = "method: rtn, format: {bits: 8, granularity: channel}"


def assign(*rules: str, head=HEAD):
    return resolve(recipe(*rules), LAYERS, head=head, weight_dtype=lambda linear: "bfloat16")


def test_the_first_rule_that_matches_wins():
    assigned = assign(f"{{match: '*.down_proj', {INT8}}}", f"{{match: '*', {INT4}}}")
    assert assigned["model.layers.0.mlp.down_proj"].format.bits == 8
    assert assigned["model.layers.1.self_attn.q_proj"].format.bits == 4
    assert assigned["model.layers.1.self_attn.q_proj"].format.scale_dtype == "bfloat16"
    assert group_by_format(assigned) == {"int4 g32": 2, "int8 channel": 2, "kept": 1}


def test_layers_without_a_rule_and_skipped_ones_are_kept():
    assigned = assign("{match: '*.0.*', skip: true}", f"{{match: '*.q_proj', {INT4}}}")
    kept = [name for name, assignment in assigned.items() if assignment.format is None]
    assert kept == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
        "lm_head",
    ]


def test_the_head_takes_part_by_its_exact_name_only():
    assert assign(f"{{match: '*', {INT4}}}")["lm_head"].format is None
    assert assign(f"{{match: lm_head, {INT8}}}", f"{{match: '*', {INT4}}}")["lm_head"].format.bits == 8
    with pytest.raises(RecipeError, match="'lm_head' matches no layer of this model"):
        assign(f"{{match: lm_head, {INT8}}}", head=None)
    with pytest.raises(RecipeError, match=r"'lm_\*' never applies: a head needs a rule with its exact name"):
        assign(f"{{match: 'lm_*', {INT8}}}")


def test_a_rule_that_matches_nothing_names_the_nearest_layer():
    with pytest.raises(RecipeError) as caught:
        assign(f"{{match: model.layers.0.mlp.down_prj, {INT4}}}")
    assert str(caught.value) == (
        "recipe 'r', rule 1: 'model.layers.0.mlp.down_prj' matches no layer of this model; "
        "did you mean 'model.layers.0.mlp.down_proj'?"
    )


def test_every_glob_of_a_rule_must_match():
    with pytest.raises(RecipeError, match=r"rule 1: 'expert\*' matches no layer of this model; layers are named like"):
        assign(f"{{match: ['*', 'expert*'], {INT4}}}")


def test_a_rule_that_never_wins_is_refused():
    with pytest.raises(RecipeError, match=r"rule 2: '\*.q_proj' never applies: earlier rules \('\*'\) take all"):
        assign(f"{{match: '*', {INT4}}}", f"{{match: '*.q_proj', {INT8}}}")


def test_a_group_size_that_does_not_divide_names_those_that_do():
    with pytest.raises(RecipeError) as caught:
        assign("{match: '*', method: rtn, format: {bits: 4, group_size: 64}}")
    assert str(caught.value) == (
        "group_size=64 does not divide in_features=96 of model.layers.0.mlp.down_proj; choose 16 or 32, "
        "or add a rule for this layer"
    )


def test_a_recipe_that_compresses_nothing_is_refused():
    with pytest.raises(RecipeError, match="leaves every layer of this model as it is"):
        assign("{match: '*', skip: true}")


def test_presets_apply_to_any_divisible_model():
    for name in ("int8", "gptq-int8", "w8a8"):
        resolve(read_recipe(name), LAYERS, head=None, weight_dtype=lambda linear: "float32")
