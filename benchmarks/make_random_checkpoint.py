"""Write a randomly initialised checkpoint of a real model's shape, shard by shard, without torch.

    python benchmarks/make_random_checkpoint.py llama-3.2-1b OUT --tokenizer DIR

Speed and memory do not depend on the values of the weights, so such a checkpoint stands for the real one in every
measurement of time and bytes (and in none of quality). bf16, seeded: the same shape and seed give the same bytes.
Memory stays at about one tensor. Knows nothing of Flyweight.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

ROWS_AT_ONCE = 4096
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What a config.json of the Llama or Qwen2 family needs beyond its constants."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float
    context: int
    norm_eps: float
    bos: int
    eos: int
    tied: bool = True
    attention_bias: bool = False
    rope_scaling: dict[str, Any] | None = None

    def config(self) -> dict[str, Any]:
        """The transformers config.json of this shape."""
        architecture = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[self.model_type]
        config: dict[str, Any] = {
            "architectures": [architecture],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied,
            "initializer_range": 0.02,
            # Without them readers take the family's defaults: in these vocabularies a quotation mark and the like.
            "bos_token_id": self.bos,
            "eos_token_id": self.eos,
            "torch_dtype": "bfloat16",
        }
        if self.model_type == "llama":
            config |= {"head_dim": self.head_dim, "attention_bias": self.attention_bias, "mlp_bias": False}
        if self.rope_scaling is not None:
            config["rope_scaling"] = self.rope_scaling
        return config

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in file order: embedding, layers, final norm, head."""
        hidden, kv = self.hidden_size, self.num_kv_heads * self.head_dim
        queries = self.num_heads * self.head_dim
        yield "model.embed_tokens.weight", (self.vocab_size, hidden)
        for layer in range(self.num_layers):
            prefix = f"model.layers.{layer}."
            yield prefix + "input_layernorm.weight", (hidden,)
            for name, rows in (("q_proj", queries), ("k_proj", kv), ("v_proj", kv)):
                yield f"{prefix}self_attn.{name}.weight", (rows, hidden)
                if self.attention_bias:
                    yield f"{prefix}self_attn.{name}.bias", (rows,)
            yield prefix + "self_attn.o_proj.weight", (hidden, queries)
            yield prefix + "post_attention_layernorm.weight", (hidden,)
            yield prefix + "mlp.gate_proj.weight", (self.intermediate_size, hidden)
            yield prefix + "mlp.up_proj.weight", (self.intermediate_size, hidden)
            yield prefix + "mlp.down_proj.weight", (hidden, self.intermediate_size)
        yield "model.norm.weight", (hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocab_size, hidden)


SHAPES = {
    "llama-3.2-1b": Shape(
        model_type="llama",
        vocab_size=128256,
        hidden_size=2048,
        num_layers=16,
        intermediate_size=8192,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        rope_theta=500000.0,
        context=131072,
        norm_eps=1e-5,
        bos=128000,
        eos=128009,
        rope_scaling=LLAMA3_ROPE,
    ),
    "llama-3.2-3b": Shape(
        model_type="llama",
        vocab_size=128256,
        hidden_size=3072,
        num_layers=28,
        intermediate_size=8192,
        num_heads=24,
        num_kv_heads=8,
        head_dim=128,
        rope_theta=500000.0,
        context=131072,
        norm_eps=1e-5,
        bos=128000,
        eos=128009,
        rope_scaling=LLAMA3_ROPE,
    ),
    "smollm2-135m": Shape(
        model_type="llama",
        vocab_size=49152,
        hidden_size=576,
        num_layers=30,
        intermediate_size=1536,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        rope_theta=100000.0,
        context=8192,
        norm_eps=1e-5,
        bos=0,
        eos=0,
    ),
    "qwen2.5-0.5b": Shape(
        model_type="qwen2",
        vocab_size=151936,
        hidden_size=896,
        num_layers=24,
        intermediate_size=4864,
        num_heads=14,
        num_kv_heads=2,
        head_dim=64,
        rope_theta=1000000.0,
        context=32768,
        norm_eps=1e-6,
        bos=151643,
        eos=151645,
        attention_bias=True,
    ),
}


def write_tensor(stream: Any, name: str, shape: tuple[int, ...], generator: np.random.Generator) -> None:
    """Append one tensor's bf16 bytes: norms 1, biases 0, matrices normal (deviation 0.02 at most)."""
    if len(shape) == 1:
        value = 0.0 if name.endswith(".bias") else 1.0
        stream.write(np.full(shape, value, dtype=ml_dtypes.bfloat16).tobytes())
        return
    rows, columns = shape
    deviation = min(0.02, 1.0 / math.sqrt(columns))
    for first in range(0, rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, rows - first)
        block = generator.standard_normal((count, columns), dtype=np.float32) * np.float32(deviation)
        stream.write(block.astype(ml_dtypes.bfloat16).tobytes())


def shards(shape: Shape, limit: int) -> list[list[tuple[str, tuple[int, ...]]]]:
    """The tensors in file order, cut where a shard would pass ``limit`` bytes."""
    result: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, dimensions in shape.tensors():
        nbytes = 2 * math.prod(dimensions)
        if result[-1] and size + nbytes > limit:
            result.append([])
            size = 0
        result[-1].append((name, dimensions))
        size += nbytes
    return result


def write_checkpoint(shape: Shape, out: Path, *, seed: int, shard_bytes: int) -> int:
    """Write config, index and shards into the new folder ``out``; returns the bytes of all tensors."""
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n")
    parts = shards(shape, shard_bytes)
    generator = np.random.default_rng(seed)
    weight_map: dict[str, str] = {}
    total = 0
    for number, part in enumerate(parts, start=1):
        single = len(parts) == 1
        file_name = "model.safetensors" if single else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, dimensions in part:
            end = offset + 2 * math.prod(dimensions)
            header[name] = {"dtype": "BF16", "shape": list(dimensions), "data_offsets": [offset, end]}
            weight_map[name] = file_name
            offset = end
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % 8)
        with (out / file_name).open("wb") as stream:
            stream.write(len(encoded).to_bytes(8, "little") + encoded)
            for name, dimensions in part:
                write_tensor(stream, name, dimensions, generator)
        total += offset
    if len(parts) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return total


def main() -> None:
    """Write the checkpoint that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("out", type=Path, help="folder to write; must not exist")
    parser.add_argument("--tokenizer", type=Path, help="folder whose tokenizer files are copied")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-bytes", type=int, default=1_000_000_000)
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists; give a new folder")
    total = write_checkpoint(
        SHAPES[arguments.shape], arguments.out, seed=arguments.seed, shard_bytes=arguments.shard_bytes
    )
    if arguments.tokenizer is not None:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            if (arguments.tokenizer / name).exists():
                shutil.copyfile(arguments.tokenizer / name, arguments.out / name)
    print(f"{arguments.out}: {arguments.shape}, {total / 1e9:.3f} GB of bf16 weights")


if __name__ == "__main__":
    main()
