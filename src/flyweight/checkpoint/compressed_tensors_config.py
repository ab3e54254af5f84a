"""The ``quantization_config`` of compressed-tensors: which layer is stored how, read and written.

It maps layer names to schemes (bits, granularity, symmetry, storage, activations) by exact names, ``re:`` patterns
and the class name ``Linear``, as the compressed-tensors library resolves them. It does not touch tensors.

Source: compressed-tensors 0.20, ``quantization/{quant_args,quant_config,lifecycle/apply}.py`` and ``utils/match.py``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flyweight.checkpoint.layouts import Activations
from flyweight.checkpoint.safetensors_header import shown
from flyweight.errors import CheckpointError, UnsupportedModelError
from flyweight.formats.base import Format
from flyweight.formats.int_group import Granularity, IntGroup

QUANT_METHOD = "compressed-tensors"
WRITTEN_AS_VERSION = "0.20.0"  # the release whose layout we write
PATTERN = "re:"
LINEAR_CLASS = "Linear"

Storage = Literal["pack-quantized", "int-quantized", "naive-quantized"]
STORAGES: tuple[Storage, ...] = ("pack-quantized", "int-quantized", "naive-quantized")
GRANULARITIES: tuple[Granularity, ...] = ("tensor", "channel", "group")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How the weights of some layers are stored. ``group_size`` is None unless granularity is ``group``."""

    bits: int
    granularity: Granularity
    group_size: int | None
    symmetric: bool
    storage: Storage
    activations: Activations


@dataclass(frozen=True, kw_only=True, slots=True)
class SchemeMap:
    """Targets in the order of the config, and what is exempt from them."""

    targets: Mapping[str, Scheme]
    ignore: tuple[str, ...]

    def scheme_of(self, name: str) -> Scheme | None:
        """The scheme of the linear layer at module path ``name``; None where it is left unquantized.

        Exact names win over patterns, patterns over the class name; among equals the alphabetically first.
        """
        if any(_matches(name, entry) for entry in self.ignore):
            return None
        for target in sorted(self.targets, key=lambda target: (PATTERN in target, target == LINEAR_CLASS, target)):
            if target != LINEAR_CLASS and _matches(name, target):
                return self.targets[target]
        return self.targets.get(LINEAR_CLASS)


def parse_quantization_config(config: Mapping[str, Any], source: str) -> SchemeMap:
    """Read a ``quantization_config``; ``source`` names the file in messages.

    Raises:
        CheckpointError: when it is malformed.
        UnsupportedModelError: when it asks for something that is not read here, naming the option and its value.
    """
    for key in ("kv_cache_scheme", "transform_config", "moe_sparsity_config"):
        if config.get(key):
            raise UnsupportedModelError(f"{source}: quantization_config.{key} is set, which is not supported")
    sparsity = config.get("sparsity_config")
    if sparsity and not (isinstance(sparsity, dict) and sparsity.get("format", "dense") == "dense"):
        raise UnsupportedModelError(f"{source}: quantization_config.sparsity_config={shown(sparsity)} is not supported")
    groups = config.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise _malformed(source, "config_groups", groups, "an object of one or more groups")
    targets: dict[str, Scheme] = {}
    for group_name, group in groups.items():
        where = f"config_groups.{group_name}"
        if not isinstance(group, dict):
            raise _malformed(source, where, group, "an object with targets and weights")
        scheme = _parse_group(group, config.get("format"), where, source)
        for target in _names(group.get("targets"), f"{where}.targets", source):
            targets[target] = scheme
    return SchemeMap(targets=targets, ignore=_names(config.get("ignore") or [], "ignore", source))


def _parse_group(group: Mapping[str, Any], default_format: Any, where: str, source: str) -> Scheme:
    weights = group.get("weights")
    if not isinstance(weights, dict):
        raise _malformed(source, f"{where}.weights", weights, "an object with num_bits")
    if group.get("output_activations"):
        raise UnsupportedModelError(f"{source}: {where}.output_activations is set, which is not supported")
    storage = group.get("format") or default_format
    if storage not in STORAGES:
        raise UnsupportedModelError(
            f"{source}: {where} is stored in format {shown(storage)}, which is not read; supported: "
            f"{', '.join(STORAGES)}"
        )

    def refuse(key: str, allowed: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{source}: {where}.weights.{key}={shown(weights.get(key))} is not supported; supported: {allowed}"
        )

    if weights.get("type", "int") != "int":
        raise refuse("type", "'int'")
    bits = weights.get("num_bits", 8)
    if type(bits) is not int or not 2 <= bits <= 8:
        raise refuse("num_bits", "2 to 8")
    if weights.get("dynamic"):
        raise refuse("dynamic", "false")
    if weights.get("actorder") not in (None, False, "weight", "static"):
        raise refuse("actorder", "null, 'weight' or 'static' (columns in their own order, without g_idx)")
    group_size = weights.get("group_size")
    granularity = weights.get("strategy") or _implied_granularity(group_size)
    if granularity not in GRANULARITIES:
        raise refuse("strategy", ", ".join(GRANULARITIES))
    if granularity == "group" and (type(group_size) is not int or group_size < 1):
        raise refuse("group_size", "a positive number with strategy 'group'")
    symmetric = weights.get("symmetric", True)
    if not isinstance(symmetric, bool):
        raise _malformed(source, f"{where}.weights.symmetric", symmetric, "true or false")
    return Scheme(
        bits=bits,
        granularity=granularity,
        group_size=group_size if granularity == "group" else None,
        symmetric=symmetric,
        storage=storage,
        activations=_parse_activations(group.get("input_activations"), where, source),
    )


def _implied_granularity(group_size: Any) -> str:
    if group_size is None:
        return "tensor"
    return "channel" if group_size == -1 else "group"


def _parse_activations(value: Any, where: str, source: str) -> Activations:
    if value is None:
        return "float"
    wanted = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    if not isinstance(value, dict):
        raise _malformed(source, f"{where}.input_activations", value, "null or an object")
    for key, needed in wanted.items():
        if value.get(key) != needed:
            raise UnsupportedModelError(
                f"{source}: {where}.input_activations.{key}={shown(value.get(key))} is not supported; supported: "
                f"{needed!r} (8-bit integers, symmetric, dynamic per token)"
            )
    return "int8"


def _names(value: Any, where: str, source: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _malformed(source, where, value, "a list of names")
    for item in value:
        if item.startswith(PATTERN):
            try:
                re.compile(item.removeprefix(PATTERN))
            except (re.error, RecursionError, OverflowError) as error:
                raise CheckpointError(
                    f"{source}: quantization_config.{where} holds {shown(item)}, which is no regular expression "
                    f"({error}); download config.json again"
                ) from None
    return tuple(value)


def _matches(name: str, target: str) -> bool:
    if target.startswith(PATTERN):
        return re.match(target.removeprefix(PATTERN), name) is not None
    return target in (name, LINEAR_CLASS)


def _malformed(source: str, where: str, value: Any, needed: str) -> CheckpointError:
    return CheckpointError(
        f"{source}: quantization_config.{where} is {shown(value)}; needed: {needed}: download config.json again"
    )


def quantization_config(
    assignments: Mapping[str, Format],
    *,
    activations: Mapping[str, Activations] | None = None,
    ignore: Sequence[str] = ("lm_head",),
) -> dict[str, Any]:
    """The ``quantization_config`` for a checkpoint whose linear layers are stored as assigned.

    ``assignments`` names every linear layer that was looked at; those with a plain format, and those in ``ignore``,
    are exempted by name. ``activations`` says which layers (by name; the others: ``float``) have their inputs
    quantized at run time; such layers are int-quantized, the others pack-quantized. With a single scheme the target
    is the class ``Linear``, else every layer is targeted by its name and the storage is ``mixed-precision`` where
    the groups' storages differ.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    plain: list[str] = []
    for name, layout in assignments.items():
        if isinstance(layout, IntGroup):
            kind = (activations or {}).get(name, "float")
            groups.setdefault((layout.bits, layout.granularity, layout.group_size, layout.symmetric, kind), []).append(
                name
            )
        else:
            plain.append(name)
    config_groups = {
        f"group_{i}": _group(key, [LINEAR_CLASS] if len(groups) == 1 else names)
        for i, (key, names) in enumerate(groups.items())
    }
    storages = {group["format"] for group in config_groups.values()}
    return {
        "quant_method": QUANT_METHOD,
        "version": WRITTEN_AS_VERSION,
        "format": storages.pop() if len(storages) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": config_groups,
        "ignore": list(dict.fromkeys([*ignore, *plain])),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        "sparsity_config": {},
        "transform_config": {},
    }


def storage_of(activations: Activations) -> Storage:
    """How integer weights are stored that meet such activations: what vLLM takes on a CPU."""
    return "int-quantized" if activations == "int8" else "pack-quantized"


def _group(key: tuple[Any, ...], targets: list[str]) -> dict[str, Any]:
    bits, granularity, group_size, symmetric, activations = key
    weights = _arguments(bits=bits, strategy=granularity, symmetric=symmetric, dynamic=False, group_size=group_size)
    inputs = _arguments(bits=8, strategy="token", symmetric=True, dynamic=True, group_size=None)
    return {
        "targets": targets,
        "format": storage_of(activations),
        "weights": weights,
        "input_activations": inputs if activations == "int8" else None,
        "output_activations": None,
    }


def _arguments(*, bits: int, strategy: str, symmetric: bool, dynamic: bool, group_size: int | None) -> dict[str, Any]:
    """One QuantizationArgs object, with the fields that readers of every release know."""
    return {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": group_size,
        "block_structure": None,
        "dynamic": dynamic,
        "actorder": None,
        "observer": None,
        "observer_kwargs": {},
    }
