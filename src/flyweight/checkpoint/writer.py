"""Writes a checkpoint folder: shards one by one, each whole or absent, then the index, the copied files, the config.

``config.json`` comes last, so that a folder with one is complete. Writing the same tensors gives the same bytes.
It knows neither formats nor models, and keeps no journal: what was written before is adopted when asked for.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flyweight.checkpoint.huggingface import INDEX_FILE, SINGLE_FILE, TEXT_FILES, Checkpoint
from flyweight.checkpoint.safetensors_file import (
    CHUNK_BYTES,
    PARTIAL_SUFFIX,
    Array,
    SafetensorsFile,
    TensorSource,
    free_bytes,
    write_atomically,
    write_safetensors,
)
from flyweight.errors import CheckpointError, ResourceError

METADATA = {"format": "pt"}  # transformers refuses files without it


class CheckpointWriter:
    """Writes into ``folder``, which is made if it does not exist. Leftovers of an interrupted write are removed.

    Raises:
        CheckpointError: when the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._shard_of: dict[str, str] = {}
        self._tensor_bytes = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob(f"*{PARTIAL_SUFFIX}"):
                leftover.unlink()
        except OSError as error:
            raise CheckpointError(
                f"{self.folder} cannot be written: {error.strerror}; choose another output folder"
            ) from None

    def write_shard(self, name: str, tensors: Mapping[str, Array | TensorSource]) -> int:
        """Write one shard (``name`` ends in .safetensors) atomically; returns its size in bytes.

        Tensor sources (:meth:`Checkpoint.lazy`) are copied piece by piece and never held.

        Raises:
            CheckpointError: when a tensor is already in another shard, has a dtype that cannot be stored, or the
                folder cannot be written.
            ResourceError: when the disk is full; no part of the shard remains.
        """
        self._check_new(name, tensors)
        size = write_safetensors(self.folder / name, tensors, METADATA)
        self._register(name)
        return size

    def adopt_shard(self, name: str) -> None:
        """Take a shard that an interrupted run had finished into the index.

        Raises:
            CheckpointError: when it is not there or is damaged.
        """
        self._check_new(name, dict.fromkeys(SafetensorsFile(self.folder / name).names))
        self._register(name)

    def finish(self, config: Mapping[str, Any], *, copied_from: Checkpoint | None = None) -> None:
        """Write the index (unless the only shard is ``model.safetensors``), copy what goes with the model, and
        write ``config.json``.

        Copied are the tokenizer's files, the chat template, the generation config and the licence.

        Raises:
            CheckpointError: when no shard was written, or the folder cannot be written.
            ResourceError: when the disk is full.
        """
        if not self._shard_of:
            raise CheckpointError(f"{self.folder}: no shard was written, so there is no checkpoint to finish")
        if set(self._shard_of.values()) != {SINGLE_FILE}:
            weight_map = dict(sorted(self._shard_of.items()))
            self._write_json(INDEX_FILE, {"metadata": {"total_size": self._tensor_bytes}, "weight_map": weight_map})
        if copied_from is not None:
            for path in companions(copied_from.folder):
                _copy(path, self.folder / path.name)
        self._write_json("config.json", config)

    def _check_new(self, name: str, tensors: Mapping[str, object]) -> None:
        if not name.endswith(".safetensors") or Path(name).name != name:
            raise CheckpointError(f"{name!r} is no name for a shard; it must end in .safetensors and name no folder")
        if name in self._shard_of.values():
            raise CheckpointError(f"{self.folder / name} was already written")
        for tensor in tensors:
            if tensor in self._shard_of:
                raise CheckpointError(
                    f"tensor {tensor!r} was already written to {self._shard_of[tensor]}; it cannot go to {name} as well"
                )

    def _register(self, name: str) -> None:
        file = SafetensorsFile(self.folder / name)
        for tensor in file.names:
            self._shard_of[tensor] = name
            self._tensor_bytes += file.tensor_bytes(tensor)

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        data = (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
        write_atomically(self.folder / name, iter([data]), expected_bytes=len(data))


def companions(folder: Path) -> list[Path]:
    """The files of a model's folder that go with its weights: tokenizer, templates, generation config, licence."""
    return sorted({path for pattern in TEXT_FILES for path in folder.glob(pattern) if path.is_file()})


def check_free_disk(folder: str | Path, needed_bytes: int) -> None:
    """Refuse at once what would not fit on the disk that holds ``folder`` (which need not exist yet).

    Raises:
        ResourceError: naming the folder, the bytes needed and the bytes free.
    """
    free = free_bytes(Path(folder).absolute())
    if needed_bytes > free:
        raise ResourceError(
            f"{folder} needs {needed_bytes} bytes, but {free} are free on its disk; make room or choose another folder"
        )


def _copy(source: Path, target: Path) -> None:
    def pieces() -> Iterator[bytes]:
        with open(source, "rb") as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece

    write_atomically(target, pieces(), expected_bytes=source.stat().st_size)
