"""Exports a training checkpoint as a Hugging Face folder: config.json, generation_config.json, bf16 weights.

Run from the repository root: ``python -m examples.demo_model.export --run build/demo_model``. The tokenizer's files are
already in the folder (``train_tokenizer.py``).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from examples.demo_model.documents import BOS, END, PAD, token_id
from examples.demo_model.model import ModelConfig


def hugging_face_config(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, object]:
    """Returns the content of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        **token_ids(tokenizer),
    }


def token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Returns the ids of the special tokens under the names of config.json."""
    return {
        "bos_token_id": token_id(tokenizer, BOS),
        "eos_token_id": token_id(tokenizer, END),
        "pad_token_id": token_id(tokenizer, PAD),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder with checkpoint.pt")
    parser.add_argument("--out", type=Path, default=Path("src/flyweight/demo_model"), help="has tokenizer.json")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.out / "tokenizer.json"))
    state = torch.load(arguments.run / "checkpoint.pt", weights_only=True)
    tensors = {name: tensor.bfloat16().contiguous() for name, tensor in state["model"].items()}
    temporary = arguments.out / "model.safetensors.tmp"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.chmod(0o644)  # save_file makes it readable for its owner only
    os.replace(temporary, arguments.out / "model.safetensors")
    config = hugging_face_config(ModelConfig(vocab_size=tokenizer.get_vocab_size()), tokenizer)
    (arguments.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {**token_ids(tokenizer), "do_sample": False}
    (arguments.out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    size = (arguments.out / "model.safetensors").stat().st_size
    print(f"step {state['step']}: {sum(t.numel() for t in tensors.values()):,} parameters, {size:,} bytes")


if __name__ == "__main__":
    main()
