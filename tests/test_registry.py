"""The registry refuses doubles and explains unknown names."""

import pytest

from flyweight.errors import RecipeError, nearest
from flyweight.registry import Registry


def test_lookup_and_iteration():
    registry: Registry[int] = Registry("method", RecipeError)
    registry.add("rtn", "round")(1)
    registry.add("gptq")(2)
    assert (registry["round"], list(registry), len(registry), "awq" in registry) == (
        1,
        ["rtn", "round", "gptq"],
        3,
        False,
    )


def test_unknown_names_list_the_known_and_the_nearest():
    registry: Registry[int] = Registry("method", RecipeError)
    registry.add("rtn")(1)
    registry.add("gptq")(2)
    with pytest.raises(RecipeError, match=r"unknown method 'gtpq'; known: gptq, rtn; did you mean 'gptq'\?"):
        registry["gtpq"]


def test_doubles_are_a_mistake_of_ours():
    registry: Registry[int] = Registry("method")
    registry.add("rtn")(1)
    with pytest.raises(ValueError, match="method 'rtn' is registered twice"):
        registry.add("rtn")(2)


def test_nearest_is_silent_when_nothing_is_near():
    assert nearest("zzz", ["gptq"]) == ""
