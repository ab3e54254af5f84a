"""A compression job, checked completely: what is read, what becomes of every layer, where it is written.

Everything that can be refused is refused here, from headers and text alone; no weight is read but to see that all
are finite. It does not compress.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from flyweight import kernels
from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.weights import Weights, check_finite
from flyweight.compression.calibration import Calibration, read_calibration
from flyweight.compression.options import CompressOptions
from flyweight.compression.recipe import Recipe, preset_names, read_recipe
from flyweight.compression.rules import Assignment, resolve, with_targets
from flyweight.errors import CheckpointError, DataError, UnsupportedModelError, UsageError
from flyweight.formats.base import Compute, StoredWeight
from flyweight.formats.plain import FloatName, float_name, stored_plain
from flyweight.models import linears_without_spec, read_spec
from flyweight.models.spec import LinearSpec, ModelSpec
from flyweight.tokenizer import Tokenizer
from flyweight.version import __version__

DEFAULT_LENGTH = 512
PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Layers that are compressed, written to one shard and journalled together. ``block``: its index, where the unit is
    a decoder block of a known architecture."""

    name: str
    linears: tuple[LinearSpec, ...]
    block: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job that may start. ``spec`` and ``weights`` are None for an architecture we do not know; ``calibration`` is
    None where no method needs it. ``compute`` is what the linears of the calibration runs compute in."""

    checkpoint: Checkpoint
    recipe: Recipe
    out: Path
    spec: ModelSpec | None
    weights: Weights | None
    assignments: Mapping[str, Assignment]
    units: tuple[Unit, ...]
    calibration: Calibration | None
    compute: Compute
    warnings: tuple[str, ...]

    @property
    def partial(self) -> Path:
        """Where the job writes until it is whole."""
        return self.out.with_name(self.out.name + PARTIAL_SUFFIX)

    @property
    def head(self) -> Assignment | None:
        """The output head, where a rule compresses it."""
        if self.spec is None:
            return None
        assignment = self.assignments.get(self.spec.head.linears[0].name)
        return assignment if assignment is not None and assignment.format is not None else None

    @property
    def wants_targets(self) -> bool:
        return any(assignment.wants_targets for assignment in self.assignments.values())

    def read(self, linear: LinearSpec) -> StoredWeight:
        """The layer's unquantized weight."""
        return stored_plain(self.checkpoint.read(f"{linear.name}.weight"))

    def weight_dtype(self, linear: LinearSpec) -> FloatName:
        return _weight_dtype(self.checkpoint, linear)

    def identity(self) -> dict[str, str]:
        """What makes this job this job: a journal of another one is not continued."""
        recipe = json.dumps(asdict(self.recipe), sort_keys=True, default=str)
        return {
            "model": self.checkpoint.content_hash(),
            "recipe": hashlib.sha256(recipe.encode()).hexdigest(),
            "calibration": "" if self.calibration is None else self.calibration.content_hash,
            # Two instruction sets add in different orders: half a job of each would be nobody's.
            "compute": "" if self.calibration is None else f"{self.compute} on {kernels.isa()}",
            "version": __version__,
        }


def check_job(model: str | Path, out: str | Path, recipe: str | Path | Recipe, options: CompressOptions) -> Job:
    """Check everything that can be checked before the first weight is compressed.

    Raises:
        UsageError: (RecipeError, CheckpointError, UnsupportedModelError, DataError) for the first thing wrong.
    """
    out = Path(out)
    if out.exists():
        raise UsageError(f"{out} already exists; choose another output folder, or remove it")
    chosen = read_recipe(recipe)
    if options.group_size is not None:
        chosen = chosen.with_group_size(options.group_size)
    checkpoint = Checkpoint.open(model, revision=options.revision)
    if checkpoint.config.get("quantization_config") is not None:
        raise CheckpointError(f"{checkpoint.folder} is already quantized; compress the original checkpoint instead")
    spec, warnings = _read_spec(checkpoint, chosen)
    weights = None if spec is None else Weights.open(checkpoint, spec)
    linears = spec.linears if spec is not None else _unknown_linears(checkpoint)
    assignments = resolve(
        chosen,
        linears,
        head=None if spec is None or spec.is_tied else spec.head.linears[0],
        weight_dtype=lambda linear: _weight_dtype(checkpoint, linear),
    )
    calibration = None
    if spec is not None and any(assignment.needs_inputs for assignment in assignments.values()):
        calibration = _read_calibration(checkpoint, spec, chosen, options)
    assignments, about_targets = _targets(assignments, calibration)
    names = checkpoint.names if weights is None else weights.used
    for name in names:
        check_finite(checkpoint, name)
    return Job(
        checkpoint=checkpoint,
        recipe=chosen,
        out=out,
        spec=spec,
        weights=weights,
        assignments=assignments,
        units=_units(spec, linears),
        calibration=calibration,
        compute=_calibration_compute(checkpoint, linears),
        warnings=(*warnings, *about_targets),
    )


def _calibration_compute(checkpoint: Checkpoint, linears: tuple[LinearSpec, ...]) -> Compute:
    """bfloat16 for models stored in it, where the CPU is several times faster that way; else float32."""
    if kernels.isa() == "amx" and all(_weight_dtype(checkpoint, linear) == "bfloat16" for linear in linears):
        return "bfloat16"
    return "float32"


def _targets(
    assignments: Mapping[str, Assignment], calibration: Calibration | None
) -> tuple[dict[str, Assignment], tuple[str, ...]]:
    """The assignments with their targets decided, and a warning where there are too few tokens for them."""
    tokens = 0 if calibration is None else calibration.tokens.size
    decided, ample = with_targets(assignments, tokens), with_targets(assignments, 1 << 62)
    if any(one.wants_targets for one in decided.values()) or not any(one.wants_targets for one in ample.values()):
        return decided, ()
    widest = max(one.linear.in_features for one in decided.values() if one.needs_inputs)
    warning = (
        f"{tokens} calibration tokens are few for layers of {widest} inputs: they aim at their own original outputs, "
        "not at the original model's stream; more --sequences would lose less"
    )
    return decided, (warning,)


def _read_spec(checkpoint: Checkpoint, recipe: Recipe) -> tuple[ModelSpec | None, tuple[str, ...]]:
    """The model's spec; None, with a warning, where it is not known and the recipe needs no calibration."""
    try:
        spec = read_spec(checkpoint.config)
    except UnsupportedModelError as error:
        if recipe.needs_calibration:
            free = [name for name in preset_names() if not read_recipe(name).needs_calibration]
            raise UnsupportedModelError(
                f"{error}; recipe {recipe.name!r} has to run the model. Recipes that need no run: {', '.join(free)}"
            ) from None
        warning = (
            f"{error}: compressed without knowing the model, by the shapes of its tensors alone; not evaluated here"
        )
        return None, (warning,)
    if not spec.unread_keys:
        return spec, ()
    return spec, (f"config.json has keys that {spec.architecture} does not read: {', '.join(spec.unread_keys)}",)


def _unknown_linears(checkpoint: Checkpoint) -> tuple[LinearSpec, ...]:
    linears = linears_without_spec({name: checkpoint.shape(name) for name in checkpoint.names})
    if not linears:
        raise UnsupportedModelError(f"{checkpoint.folder} holds no tensor that looks like a linear layer's weight")
    return linears


def _weight_dtype(checkpoint: Checkpoint, linear: LinearSpec) -> FloatName:
    return float_name(checkpoint.dtype(f"{linear.name}.weight"))


def _read_calibration(checkpoint: Checkpoint, spec: ModelSpec, recipe: Recipe, options: CompressOptions) -> Calibration:
    path = options.calibration or recipe.calibration
    if path is None:
        raise DataError(
            f"recipe {recipe.name!r} needs calibration text: give --calibration FILE (text, .jsonl or .npy), or choose "
            "a recipe without it, such as int8 or int4"
        )
    length = options.sequence_length or min(DEFAULT_LENGTH, spec.max_positions)
    if length > spec.max_positions:
        raise DataError(
            f"--sequence-length {length} is longer than the model's context of {spec.max_positions} tokens; choose at "
            f"most {spec.max_positions}"
        )
    tokenizer = Tokenizer.open(checkpoint.folder) if (checkpoint.folder / "tokenizer.json").is_file() else None
    return read_calibration(
        path,
        tokenizer,
        sequences=options.sequences,
        length=length,
        seed=options.seed,
        vocab_size=spec.vocab_size,
    )


def _units(spec: ModelSpec | None, linears: tuple[LinearSpec, ...]) -> tuple[Unit, ...]:
    if spec is not None:
        return tuple(Unit(name=block.prefix, linears=block.linears, block=block.index) for block in spec.blocks)
    parts: dict[str, list[LinearSpec]] = {}
    for linear in linears:  # a numbered path component is a layer's; what has none goes together
        words = linear.name.split(".")
        number = next((i for i, word in enumerate(words) if word.isdigit()), None)
        parts.setdefault("layers" if number is None else ".".join(words[: number + 1]), []).append(linear)
    return tuple(Unit(name=name, linears=tuple(members)) for name, members in parts.items())
