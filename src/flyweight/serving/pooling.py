"""How an embedding model pools, by the files that sentence-transformers puts beside its weights."""

import json
from pathlib import Path
from typing import Literal

from flyweight.engine.embedding import Pooling
from flyweight.errors import CheckpointError

MODES: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last"}


def pooling_of(folder: Path, wanted: Literal["auto", "mean", "last", "off"]) -> Pooling | None:
    """What the server was told, else what ``1_Pooling/config.json`` says; None for a model that is not for embedding.

    Raises:
        CheckpointError: when the file cannot be read, or asks for a way to pool that is not known.
    """
    if wanted == "off":
        return None
    if wanted != "auto":
        return wanted
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; repair it, or choose embeddings='off'") from error
    found = [MODES.get(name) for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    if len(found) != 1 or found[0] is None:
        raise CheckpointError(f"{path} asks for another pooling than mean or last token; choose embeddings='off'")
    return found[0]
