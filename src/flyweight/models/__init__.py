"""What a model is, as data: one file per architecture, each from a config.json to a ModelSpec."""

from collections.abc import Mapping
from typing import Any

from flyweight.errors import UnsupportedModelError, nearest
from flyweight.models import (  # noqa: F401  (imported so that they register themselves)
    gemma2,
    gemma3,
    granite,
    llama,
    mistral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    smollm3,
)
from flyweight.models.architecture import ARCHITECTURES
from flyweight.models.config import ConfigReader
from flyweight.models.spec import ModelSpec
from flyweight.models.unknown import linears_without_spec

__all__ = ["ARCHITECTURES", "is_known", "linears_without_spec", "read_spec"]

DATA_FREE = "its weights can still be compressed without calibration data, by a round-to-nearest recipe"
EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
STATE_SPACE_PREFIXES = ("mamba", "ssm_", "state_size", "conv_kernel", "linear_num_", "time_mix")
ARCHITECTURE_ENDINGS = ("ForCausalLM", "ForConditionalGeneration")


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether the config's ``model_type`` is one that :func:`read_spec` can read."""
    model_type = config.get("model_type")
    return isinstance(model_type, str) and model_type in ARCHITECTURES


def read_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The model that a parsed ``config.json`` describes.

    Raises:
        UnsupportedModelError: for an unknown ``model_type`` or rope type, or an option that cannot be run.
        CheckpointError: when a key is missing, has the wrong type or contradicts another.
    """
    reader = ConfigReader(config)
    model_type = reader.text("model_type")
    _refuse_other_kinds(reader, config, model_type)
    if model_type not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"unknown model_type {model_type!r} in config.json; known: {', '.join(sorted(ARCHITECTURES))}"
            f"{nearest(model_type, ARCHITECTURES)} ({DATA_FREE})"
        )
    return ARCHITECTURES[model_type](reader)


def _refuse_other_kinds(reader: ConfigReader, config: Mapping[str, Any], model_type: str) -> None:
    """Refuse what is not a dense decoder with a language model's head, in words that say what it is."""
    for key in EXPERT_KEYS:
        if reader.has(key) and config[key] not in (0, 1):
            raise UnsupportedModelError(
                f"model_type {model_type!r} with {key}={config[key]!r} is a mixture of experts, which is not "
                f"supported; supported are dense decoders: {', '.join(sorted(ARCHITECTURES))} ({DATA_FREE})"
            )
        reader.ignore([key])
    if model_type not in ARCHITECTURES and any(key.startswith(STATE_SPACE_PREFIXES) for key in config):
        raise UnsupportedModelError(
            f"model_type {model_type!r} is a state-space or hybrid model, which is not supported; supported are "
            f"dense decoders: {', '.join(sorted(ARCHITECTURES))} ({DATA_FREE})"
        )
    reader.expect("is_encoder_decoder", False, reason="only decoders are")
    classes = reader.texts("architectures")
    if classes and model_type in ARCHITECTURES and not any(name.endswith(ARCHITECTURE_ENDINGS) for name in classes):
        raise UnsupportedModelError(
            f"architectures={list(classes)} in config.json: only language models are supported, "
            f"with a class that ends in {' or '.join(ARCHITECTURE_ENDINGS)}"
        )
