"""Reading the position embedding out of a config: the new ``rope_parameters`` and the old ``rope_scaling``.

What the values mean for frequencies is the business of ``rope.py``.
"""

from collections.abc import Mapping

from flyweight.errors import nearest
from flyweight.models.config import ConfigReader
from flyweight.models.spec import RopeKind, RopeSpec

KINDS: Mapping[str, RopeKind] = {
    "default": "default",
    "linear": "linear",
    "dynamic": "dynamic",
    "llama3": "llama3",
    "yarn": "yarn",
    "longrope": "longrope",
}


def rope_section(config: ConfigReader) -> ConfigReader:
    """The object that holds the rope options, old name first as in transformers; empty when there is none."""
    if config.has("rope_scaling"):
        config.ignore(["rope_parameters"])
        return config.section("rope_scaling")
    return config.section("rope_parameters")


def read_rope(
    config: ConfigReader,
    *,
    head_dim: int,
    max_positions: int,
    default_theta: float = 10_000.0,
    kinds: Mapping[str, RopeKind] = KINDS,
    can_be_partial: bool = False,
) -> RopeSpec:
    """The one position embedding of a model whose layers all share it.

    Args:
        kinds: names this architecture accepts as ``rope_type`` and what they mean.
        can_be_partial: whether ``partial_rotary_factor`` may be below 1.

    Raises:
        UnsupportedModelError: for an unknown rope type, or one embedding per layer type.
        CheckpointError: for missing or impossible values.
    """
    section = rope_section(config)
    if section.nested():
        raise section.refuse(section.nested()[0], "one position embedding per layer type is not known here")
    theta = section.number("rope_theta", config.number("rope_theta", default_theta, above=1.0), above=1.0)
    rotary_dim = head_dim
    if can_be_partial:
        share = section.number(
            "partial_rotary_factor", config.number("partial_rotary_factor", 1.0, at_most=1.0), at_most=1.0
        )
        rotary_dim = int(head_dim * share)
    else:
        for reader in (config, section):
            reader.expect("partial_rotary_factor", 1, 1.0, reason="this architecture rotates whole heads")
    return rope_of_section(
        section, config, theta=theta, rotary_dim=rotary_dim, max_positions=max_positions, kinds=kinds
    )


def rope_of_section(
    section: ConfigReader,
    config: ConfigReader,
    *,
    theta: float,
    rotary_dim: int,
    max_positions: int,
    kinds: Mapping[str, RopeKind] = KINDS,
) -> RopeSpec:
    """The RopeSpec of one object of rope options, with theta and the rotated width already known.

    Raises:
        UnsupportedModelError: for an unknown rope type or option.
        CheckpointError: for missing or impossible values.
    """
    name = section.text("rope_type", section.text("type", "default"))
    if name not in kinds:
        raise section.refuse(
            "rope_type" if section.has("rope_type") else "type",
            f"unknown rope type; known: {', '.join(sorted(kinds))}{nearest(name, kinds)}",
        )
    kind = kinds[name]
    section.expect("mrope_section", reason="positions of several axes are for models that see images")
    if rotary_dim % 2 or rotary_dim < 2 or (kind == "dynamic" and rotary_dim == 2):
        raise config.contradiction(f"{rotary_dim} rotated features per head; rotation needs an even number above 2")
    config.ignore(["original_max_position_embeddings"])
    if kind == "default":
        return RopeSpec(rotary_dim=rotary_dim, theta=theta, max_positions=max_positions)
    if kind in ("linear", "dynamic"):
        return RopeSpec(
            rotary_dim=rotary_dim,
            theta=theta,
            kind=kind,
            factor=section.number("factor", above=1e-9),
            max_positions=max_positions,
        )
    # A config that names the original length outside the rope options means it for them, as transformers reads it.
    original = config.integer(
        "original_max_position_embeddings", section.integer("original_max_position_embeddings", max_positions)
    )
    if kind == "llama3":
        low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
        if low >= high:
            raise config.contradiction(f"low_freq_factor={low} is not below high_freq_factor={high}")
        return RopeSpec(
            rotary_dim=rotary_dim,
            theta=theta,
            kind=kind,
            factor=section.number("factor", above=1e-9),
            original_max_positions=original,
            max_positions=max_positions,
            low_freq_factor=low,
            high_freq_factor=high,
        )
    factor = section.number("factor", max_positions / original, above=1e-9)
    given_attention_factor = section.number("attention_factor") if section.has("attention_factor") else None
    if kind == "longrope":
        if original < 2:
            raise config.contradiction(f"original_max_position_embeddings={original}; longrope needs more than 1")
        return RopeSpec(
            rotary_dim=rotary_dim,
            theta=theta,
            kind=kind,
            factor=factor,
            original_max_positions=original,
            max_positions=max_positions,
            attention_factor=given_attention_factor,
            short_factor=section.numbers("short_factor", length=rotary_dim // 2),
            long_factor=section.numbers("long_factor", length=rotary_dim // 2),
        )
    return RopeSpec(
        rotary_dim=rotary_dim,
        theta=theta,
        kind=kind,
        factor=factor,
        original_max_positions=original,
        max_positions=max_positions,
        beta_fast=section.number("beta_fast", 32.0),
        beta_slow=section.number("beta_slow", 1.0),
        mscale=section.number("mscale") if section.has("mscale") else None,
        mscale_all_dim=section.number("mscale_all_dim") if section.has("mscale_all_dim") else None,
        attention_factor=given_attention_factor,
        truncate=section.boolean("truncate", True),
    )
