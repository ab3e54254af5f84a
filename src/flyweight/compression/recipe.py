"""A recipe: which method stores which layers how, as data. Read from a preset's name or a YAML file, checked at birth.

A recipe does not know any model: :mod:`flyweight.compression.rules` holds it against one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from flyweight.compression.methods import METHODS, MethodOptions
from flyweight.errors import RecipeError, nearest
from flyweight.formats.int_group import Granularity, IntGroup
from flyweight.formats.plain import FloatName

Activations = Literal["float", "int8"]
FORMAT_KEYS = ("bits", "granularity", "group_size", "symmetric", "scale_dtype")
RULE_KEYS = ("match", "skip", "method", "format", "activations", "options")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How a layer is to be stored, before the checkpoint's dtype is known.

    ``scale_dtype`` None means the dtype in which the checkpoint stores the weight. ``activations`` says what the
    weight is meant to meet when it runs: ``int8`` asks runtimes to quantize activations dynamically per token.
    """

    bits: int
    granularity: Granularity = "group"
    group_size: int | None = None
    symmetric: bool = True
    scale_dtype: FloatName | None = None
    activations: Activations = "float"

    def __post_init__(self) -> None:
        self.format("float32")  # the format's own checks: bits, granularity, contradictions
        if self.activations not in ("float", "int8"):
            raise RecipeError(f"activations={self.activations!r} is unknown; choose float or int8")

    def format(self, weight_dtype: FloatName) -> IntGroup:
        """The format for a weight that the checkpoint stores in ``weight_dtype``."""
        return IntGroup(
            bits=self.bits,
            granularity=self.granularity,
            group_size=self.group_size,
            symmetric=self.symmetric,
            scale_dtype=self.scale_dtype if self.scale_dtype is not None else weight_dtype,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Layers whose module path matches one of the globs ``match`` are stored so; with ``scheme`` None they are kept.

    ``options`` is the options object of ``method`` (``methods.METHODS[method].options_type``).
    """

    match: tuple[str, ...]
    method: str | None = None
    scheme: Scheme | None = None
    options: MethodOptions | None = None

    @property
    def label(self) -> str:
        return ", ".join(self.match)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Rules, tried in order for every layer; the first that matches wins. ``calibration`` is a default text file."""

    name: str
    rules: tuple[Rule, ...]
    description: str = ""
    calibration: Path | None = None

    @property
    def needs_calibration(self) -> bool:
        return any(rule.method is not None and METHODS[rule.method].needs_inputs for rule in self.rules)

    def with_group_size(self, group_size: int) -> "Recipe":
        """The same recipe with every rule that stores groups storing groups of ``group_size`` inputs.

        Raises:
            RecipeError: when no rule of the recipe stores groups.
        """
        if not any(rule.scheme is not None and rule.scheme.granularity == "group" for rule in self.rules):
            raise RecipeError(
                f"group size {group_size} was asked for, but recipe {self.name!r} has no rule with granularity 'group';"
                " leave --group-size out or choose another recipe"
            )
        rules = []
        for rule in self.rules:
            scheme = rule.scheme
            if scheme is not None and scheme.granularity == "group":
                scheme = replace(scheme, group_size=group_size)
            rules.append(replace(rule, scheme=scheme))
        return replace(self, rules=tuple(rules))


def preset_names() -> tuple[str, ...]:
    """The names of the recipes that come with the package, sorted."""
    folder = resources.files("flyweight.compression") / "presets"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def read_recipe(recipe: "str | Path | Recipe") -> Recipe:
    """A recipe by the name of a preset or the path of a YAML file (a Recipe passes through).

    Raises:
        RecipeError: unknown preset, unreadable file, unknown key or value; the message names the file and the key.
    """
    if isinstance(recipe, Recipe):
        return recipe
    path = Path(recipe)
    if isinstance(recipe, str) and recipe in preset_names():
        text = (resources.files("flyweight.compression") / "presets" / f"{recipe}.yaml").read_text("utf-8")
        return parse_recipe(text, name=recipe, source=f"preset {recipe}", folder=None)
    if path.suffix not in (".yaml", ".yml"):
        raise RecipeError(
            f"unknown recipe {str(recipe)!r}; presets: {', '.join(preset_names())}; or the path of a .yaml file"
            f"{nearest(str(recipe), preset_names())}"
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RecipeError(f"recipe {path} cannot be read: {reason}") from error
    return parse_recipe(text, name=path.stem, source=str(path), folder=path.parent)


def parse_recipe(text: str, *, name: str, source: str, folder: Path | None) -> Recipe:
    """Read a recipe's YAML. ``source`` names it in messages; ``folder`` is where relative paths start."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    data = _mapping(data, source)
    _check_keys(data, ("description", "rules", "calibration"), source)
    entries = data.get("rules")
    if not isinstance(entries, list) or not entries:
        raise RecipeError(f"{source}: 'rules' must be a list of at least one rule")
    rules = tuple(_rule(entry, f"{source}: rule {index}") for index, entry in enumerate(entries, start=1))
    calibration = data.get("calibration")
    if calibration is not None and not isinstance(calibration, str):
        raise RecipeError(f"{source}: 'calibration' must be the path of a text file")
    return Recipe(
        name=name,
        description=str(data.get("description", "")),
        rules=rules,
        calibration=None if calibration is None else (folder or Path()) / calibration,
    )


def _rule(entry: object, where: str) -> Rule:
    data = _mapping(entry, where)
    _check_keys(data, RULE_KEYS, where)
    match = _globs(data.get("match"), where)
    if not isinstance(data.get("skip", False), bool):
        raise RecipeError(f"{where}: 'skip' must be true or false")
    if data.get("skip", False):
        extra = sorted(set(data) - {"match", "skip"})
        if extra:
            raise RecipeError(f"{where}: a rule with 'skip: true' takes no {extra[0]!r}; remove it or remove 'skip'")
        return Rule(match=match)
    if "method" not in data or "format" not in data:
        raise RecipeError(f"{where}: needs 'method' and 'format', or 'skip: true'")
    if not isinstance(data["method"], str):
        raise RecipeError(f"{where}: 'method' must be one of {', '.join(sorted(METHODS))}")
    try:
        method = METHODS[data["method"]]
        scheme_data = _mapping(data["format"], f"{where}: format")
        _check_keys(scheme_data, FORMAT_KEYS, f"{where}: format")
        if "bits" not in scheme_data:
            raise RecipeError("format needs 'bits'")
        _check_types(scheme_data, {"bits": int, "group_size": int, "symmetric": bool, "granularity": str}, "format")
        scheme = Scheme(**scheme_data, activations=data.get("activations", "float"))
        options = _options(method.options_type, _mapping(data.get("options", {}), f"{where}: options"))
    except RecipeError as error:
        message = str(error)
        raise RecipeError(message if message.startswith(where) else f"{where}: {message}") from error
    return Rule(match=match, method=data["method"], scheme=scheme, options=options)


def _options(kind: type[MethodOptions], data: Mapping[str, Any]) -> MethodOptions:
    known = {field.name: field for field in fields(kind)}
    _check_keys(data, tuple(known), "options")
    return kind(**data)


def _globs(value: object, where: str) -> tuple[str, ...]:
    globs = [value] if isinstance(value, str) else value
    if not isinstance(globs, Sequence) or not globs or not all(isinstance(glob, str) and glob for glob in globs):
        raise RecipeError(
            f"{where}: needs 'match', a glob over module paths (such as 'model.layers.*') or a list of them"
        )
    return tuple(globs)


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise RecipeError(f"{where}: must be a mapping of names to values")
    return value


def _check_keys(data: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise RecipeError(f"{where}: unknown key {key!r}; known: {', '.join(known)}{nearest(key, known)}")


def _check_types(data: Mapping[str, Any], types: Mapping[str, type], where: str) -> None:
    for key, kind in types.items():
        value = data.get(key)
        if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise RecipeError(f"{where}: {key}={value!r} must be {'a whole number' if kind is int else kind.__name__}")
