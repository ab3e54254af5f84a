"""Small random checkpoints on disk, made with numpy alone and without the code under test.

``encode_safetensors`` is a second, independent writer of the format, so that a reader can be tested against bytes
that its own package did not produce.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
FLOATS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def safetensors_bytes(header: bytes, data: bytes) -> bytes:
    """A file with this header text and this data, whatever they say."""
    return len(header).to_bytes(8, "little") + header + data


def encode_safetensors(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """The tensors in the order given, as a safetensors file."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = b""
    for name, tensor in tensors.items():
        raw = np.ascontiguousarray(tensor).tobytes()
        header[name] = {
            "dtype": CODES[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    return safetensors_bytes(text + b" " * (-len(text) % 8), data)


def tiny_llama_config(
    *,
    vocab_size: int = 128,
    hidden_size: int = 64,
    intermediate_size: int = 96,
    num_layers: int = 2,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    max_positions: int = 128,
    tied: bool = True,
    dtype: str = "float32",
) -> dict[str, Any]:
    """A Llama ``config.json`` that transformers accepts as well."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "dtype": dtype,
        "eos_token_id": 2,
        "head_dim": hidden_size // num_heads,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": max_positions,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": num_heads,
        "num_hidden_layers": num_layers,
        "num_key_value_heads": num_kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "vocab_size": vocab_size,
    }


def random_llama_tensors(config: Mapping[str, Any], *, seed: int = 0) -> dict[str, Array]:
    """Random weights for a Llama config, in the config's dtype: large enough that attention is not uniform."""
    rng = np.random.default_rng(seed)
    dtype = FLOATS[config["dtype"]]
    hidden, inner, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim

    def weight(rows: int, columns: int) -> Array:
        return (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(dtype)

    def norm() -> Array:
        return rng.uniform(0.5, 1.5, hidden).astype(dtype)

    tensors = {"model.embed_tokens.weight": rng.standard_normal((config["vocab_size"], hidden)).astype(dtype)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.input_layernorm.weight": norm(),
            f"{prefix}.self_attn.q_proj.weight": weight(queries, hidden),
            f"{prefix}.self_attn.k_proj.weight": weight(keys, hidden),
            f"{prefix}.self_attn.v_proj.weight": weight(keys, hidden),
            f"{prefix}.self_attn.o_proj.weight": weight(hidden, queries),
            f"{prefix}.post_attention_layernorm.weight": norm(),
            f"{prefix}.mlp.gate_proj.weight": weight(inner, hidden),
            f"{prefix}.mlp.up_proj.weight": weight(inner, hidden),
            f"{prefix}.mlp.down_proj.weight": weight(hidden, inner),
        }
    tensors["model.norm.weight"] = norm()
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = weight(config["vocab_size"], hidden)
    return tensors


def write_checkpoint(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Array], *, num_shards: int = 1
) -> Path:
    """Write ``config.json`` and the tensors, in one file or in shards with an index; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    names = list(tensors)
    if num_shards == 1:
        (folder / "model.safetensors").write_bytes(encode_safetensors(tensors, {"format": "pt"}))
        return folder
    weight_map = {}
    for shard in range(num_shards):
        file_name = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = names[shard::num_shards]
        (folder / file_name).write_bytes(encode_safetensors({name: tensors[name] for name in part}, {"format": "pt"}))
        weight_map |= dict.fromkeys(part, file_name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_tiny_llama(folder: Path, *, seed: int = 0, num_shards: int = 1, **sizes: Any) -> dict[str, Array]:
    """Write a tiny random Llama checkpoint (``sizes``: see :func:`tiny_llama_config`); returns its tensors."""
    config = tiny_llama_config(**sizes)
    tensors = random_llama_tensors(config, seed=seed)
    write_checkpoint(folder, config, tensors, num_shards=num_shards)
    return tensors


def write_word_tokenizer(folder: Path, *, vocab_size: int = 128) -> None:
    """A tokenizer of ``vocab_size`` made-up words, <s> = 1 and </s> = 2, with a plain chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["<unk>", "<s>", "</s>"] + [f"w{i}" for i in range(3, vocab_size)]
    special = [
        {"id": i, "content": words[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        | {"special": True}
        for i in range(3)
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
