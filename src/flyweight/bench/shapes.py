"""Shapes of models to measure kernels at: presets of real models, or any config.json.

A preset is the config.json of a model, cut to what gives a kernel its size. Nothing here measures.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyweight.checkpoint.huggingface import read_json
from flyweight.errors import UsageError, nearest
from flyweight.models import read_spec
from flyweight.models.spec import ModelSpec

LLAMA3 = {
    "model_type": "llama",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "qwen2.5-0.5b": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    },
    "llama-3.2-1b": {
        **LLAMA3,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "head_dim": 64,
    },
    "llama-3.2-3b": {
        **LLAMA3,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "head_dim": 128,
    },
    "llama-3.1-8b": {
        **LLAMA3,
        "tie_word_embeddings": False,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "head_dim": 128,
    },
}


def read_shape(name_or_path: str) -> ModelSpec:
    """The spec of a preset, a model's folder or its config.json.

    Raises:
        UsageError: for what is neither a preset nor a readable config.
    """
    if name_or_path in PRESETS:
        return read_spec(PRESETS[name_or_path])
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise UsageError(
            f"{name_or_path!r} is neither a preset ({', '.join(PRESETS)}) nor a config.json or a folder with one"
            f"{nearest(name_or_path, PRESETS)}"
        )
    return read_spec(read_json(path, "give the config.json of a model"))
