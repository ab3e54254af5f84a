"""The residual streams between two blocks, made from the embedding, kept for a resumed job.

It knows the embedding table and files; not what blocks do to the streams.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.safetensors_file import SafetensorsFile, write_safetensors
from flyweight.compression.activations import Activations
from flyweight.compression.block import Streams
from flyweight.errors import CheckpointError
from flyweight.formats.base import Array
from flyweight.models.spec import ModelSpec

ROWS_AT_ONCE = 2048


def embed(checkpoint: Checkpoint, spec: ModelSpec, tokens: Array, streams: Streams) -> None:
    """Fill the streams with the embeddings of ``tokens`` (any shape), a few rows of the table in memory at a time."""
    own, head = f"{spec.embedding.name}.weight", f"{spec.head.linears[0].name}.weight"
    table = own if own in checkpoint else head  # a tied pair may be stored under either name
    flat = tokens.reshape(-1)
    for start in range(0, len(flat), ROWS_AT_ONCE):
        ids, inverse = np.unique(flat[start : start + ROWS_AT_ONCE], return_inverse=True)
        rows = np.concatenate([checkpoint.read_rows(table, int(i), int(i) + 1) for i in ids]).astype(np.float32)
        values = rows[inverse] * np.float32(spec.embedding.scale)
        streams.compressed.write(start, values)
        if streams.original is not None:
            streams.original.write(start, values)


def save(path: Path, streams: Streams) -> None:
    """Write the streams to ``path``, whole or not at all."""
    kept = {"compressed": StoredRows(streams.compressed)}
    if streams.original is not None:
        kept["original"] = StoredRows(streams.original)
    write_safetensors(path, kept)


def restore(path: Path, streams: Streams) -> None:
    """Read what :func:`save` wrote.

    Raises:
        CheckpointError: when the file is missing or damaged.
    """
    file = SafetensorsFile(path)
    for name, activations in (("compressed", streams.compressed), ("original", streams.original)):
        if activations is None:
            continue
        if file.shape(name) != (activations.tokens, activations.width):
            raise CheckpointError(f"{path} does not fit this job; use --restart")
        for start in range(0, activations.tokens, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, activations.tokens)
            activations.write(start, file.read_rows(name, start, stop))


class StoredRows:
    """Activations as something that can be written without a second copy."""

    def __init__(self, activations: Activations) -> None:
        self._activations = activations

    @property
    def dtype(self) -> np.dtype[np.float32]:
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        return self._activations.tokens, self._activations.width

    def chunks(self) -> Iterator[Array]:
        for start in range(0, self._activations.tokens, ROWS_AT_ONCE):
            yield self._activations.read(start, min(start + ROWS_AT_ONCE, self._activations.tokens)).reshape(-1)
