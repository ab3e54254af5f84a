"""Where the demo model and its data lie inside the installed package.

The model is a checkpoint folder like any other. This module knows nothing about how it was trained
(``examples/demo_model/`` of the repository) or how its files are read.
"""

from pathlib import Path

__all__ = ["calibration_path", "golden_path", "heldout_path", "model_path"]


def model_path() -> Path:
    """Returns the folder that holds config.json, model.safetensors (bf16) and the tokenizer of the demo model."""
    return Path(__file__).parent


def golden_path() -> Path:
    """Returns the folder of golden prompts: one JSONL file per task, with values that training never showed.

    Every line has ``id``, ``task``, ``messages``, ``expected`` (the exact answer) and ``max_tokens``; lines of the
    retrieval task also ``distance`` (tokens between the asked line and the answer).
    """
    return Path(__file__).parent / "data" / "golden"


def calibration_path() -> Path:
    """Returns the calibration file: JSONL of whole conversations (``messages``) of the training distribution."""
    return Path(__file__).parent / "data" / "calibration.jsonl"


def heldout_path() -> Path:
    """Returns the held-out text for perplexity: conversations and sentences as the chat template writes them.

    A line ``<|endoftext|>`` stands between two documents. Special tokens stand in the text as ``<|bos|>``, ``<|end|>``
    and so on; the tokenizer reads them as single tokens.
    """
    return Path(__file__).parent / "data" / "heldout.txt"
