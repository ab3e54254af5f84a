"""A recipe held against a model: which layer is stored how, checked completely before the first weight is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from flyweight.compression.methods import METHODS, Method, MethodOptions
from flyweight.compression.recipe import Activations, Recipe, Rule
from flyweight.errors import RecipeError, nearest
from flyweight.formats.int_group import IntGroup
from flyweight.formats.plain import FloatName
from flyweight.models.spec import LinearSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What becomes of one linear layer. ``format`` None means that it is kept as it is; ``wants_targets``: its method
    is to be told what the original model gives."""

    linear: LinearSpec
    format: IntGroup | None = None
    method: Method | None = None
    options: MethodOptions | None = None
    activations: Activations = "float"
    wants_targets: bool = False

    @property
    def needs_inputs(self) -> bool:
        return self.method is not None and self.method.needs_inputs


def resolve(
    recipe: Recipe,
    linears: Sequence[LinearSpec],
    *,
    head: LinearSpec | None,
    weight_dtype: Callable[[LinearSpec], FloatName],
) -> dict[str, Assignment]:
    """Assign every layer of ``linears``, and the ``head`` (None when it is tied to the embedding), by the first rule
    that matches its name; the head takes part only in rules that name it without wildcards.

    Raises:
        RecipeError: when a rule matches nothing, never wins, or asks for what a layer's shape does not allow. Every
            layer is checked.
    """
    heads = () if head is None else (head,)
    names = [linear.name for linear in (*linears, *heads)]
    won = [0] * len(recipe.rules)
    assignments: dict[str, Assignment] = {}
    for linear in (*linears, *heads):
        index = _first_match(recipe.rules, linear.name, is_head=linear is head)
        if index is not None:
            won[index] += 1
        rule = None if index is None else recipe.rules[index]
        assignments[linear.name] = _assign(rule, linear, weight_dtype)
    for index, rule in enumerate(recipe.rules):
        _check_used(recipe, index, rule, names, has_won=won[index] > 0)
    for assignment in assignments.values():
        if assignment.format is not None:
            shape = (assignment.linear.out_features, assignment.linear.in_features)
            assignment.format.check(shape, assignment.linear.name)
    if all(assignment.format is None for assignment in assignments.values()):
        raise RecipeError(f"recipe {recipe.name!r} leaves every layer of this model as it is; nothing to compress")
    return assignments


def _first_match(rules: Sequence[Rule], name: str, *, is_head: bool) -> int | None:
    for index, rule in enumerate(rules):
        if any(glob == name if is_head else fnmatchcase(name, glob) for glob in rule.match):
            return index
    return None


def _assign(rule: Rule | None, linear: LinearSpec, weight_dtype: Callable[[LinearSpec], FloatName]) -> Assignment:
    if rule is None or rule.scheme is None or rule.method is None:
        return Assignment(linear=linear)
    return Assignment(
        linear=linear,
        format=rule.scheme.format(weight_dtype(linear)),
        method=METHODS[rule.method],
        options=rule.options,
        activations=rule.scheme.activations,
    )


def _check_used(recipe: Recipe, index: int, rule: Rule, names: Sequence[str], *, has_won: bool) -> None:
    where = f"recipe {recipe.name!r}, rule {index + 1}"
    for glob in rule.match:
        if not any(fnmatchcase(name, glob) for name in names):
            raise RecipeError(f"{where}: {glob!r} matches no layer of this model{_hint(glob, names)}")
    if not has_won:
        earlier = ", ".join(repr(other.label) for other in recipe.rules[:index])
        reason = (
            f"earlier rules ({earlier}) take all its layers" if index else "a head needs a rule with its exact name"
        )
        raise RecipeError(f"{where}: {rule.label!r} never applies: {reason}; the first rule that matches wins")


def _hint(glob: str, names: Sequence[str]) -> str:
    """What the glob may have meant: a layer's name, or the tail of one as long as the glob's literal part."""
    literal = glob.strip("*.")
    tails = dict.fromkeys(".".join(name.split(".")[-literal.count(".") - 1 :]) for name in names)
    return nearest(glob, names) or nearest(literal, tails) or f"; layers are named like {names[0]!r}"


def with_targets(assignments: Mapping[str, Assignment], tokens: int) -> dict[str, Assignment]:
    """The assignments for a calibration with ``tokens``: whether that is enough to aim at the original model's outputs
    is decided for all layers alike, by the one with most inputs, because the original model is run for all or none."""
    widest = max((one.linear.in_features for one in assignments.values() if one.needs_inputs), default=1)
    result = {}
    for name, one in assignments.items():
        wants = one.method is not None and one.method.wants_targets(one.options, tokens / widest)
        result[name] = replace(one, wants_targets=wants)
    return result


def group_by_format(assignments: Mapping[str, Assignment]) -> dict[str, int]:
    """How many layers are stored in each format, by the format's name; kept ones count as ``kept``."""
    counts: dict[str, int] = {}
    for assignment in assignments.values():
        name = "kept" if assignment.format is None else assignment.format.name
        counts[name] = counts.get(name, 0) + 1
    return counts
