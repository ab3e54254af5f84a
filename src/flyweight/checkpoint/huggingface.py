"""A Hugging Face checkpoint: a folder, or a hub id, with ``config.json`` and safetensors shards.

Opening reads and checks every header, so that a missing or damaged shard is known before any long work; tensors
are read when asked for. Nothing is ever unpickled or executed. This module knows neither what the tensors mean
nor how quantized ones are laid out.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np

from flyweight import kernels
from flyweight.checkpoint.cache import file_digest
from flyweight.checkpoint.safetensors_file import Array, SafetensorsFile, StoredTensor
from flyweight.checkpoint.safetensors_header import shown
from flyweight.errors import CheckpointError, nearest

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_CONFIG_BYTES = 64 << 20
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "vocab.json",
    "vocab.txt",
    "*.model",
    "*.tiktoken",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
)
"""What belongs to a model besides its config and weights: fetched from the hub, copied into what is written."""


class Checkpoint:
    """An opened checkpoint: ``folder``, ``config`` and tensors by name. Use :meth:`open`."""

    def __init__(self, *, folder: Path, config: dict[str, Any], shard_of: Mapping[str, SafetensorsFile]) -> None:
        self.folder = folder
        self.config = config
        self._shard_of = dict(shard_of)

    @classmethod
    def open(cls, model: str | Path, *, revision: str | None = None) -> Self:
        """Open a local folder or, where no such folder exists, a hub id ``organisation/name``.

        Hub ids go through ``huggingface_hub``: its cache, its ``HF_HUB_OFFLINE`` and its credentials apply;
        ``revision`` is a branch, tag or commit there.

        Raises:
            CheckpointError: when there is no such model, or its files are missing, damaged or contradictory.
        """
        folder = _locate(model, revision)
        config = read_json(folder / "config.json", "a folder with config.json and safetensors files is needed")
        return cls(folder=folder, config=config, shard_of=_open_shards(folder))

    @property
    def names(self) -> tuple[str, ...]:
        """All tensor names, sorted."""
        return tuple(sorted(self._shard_of))

    def __contains__(self, name: object) -> bool:
        return name in self._shard_of

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shard(name).shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._shard(name).dtype(name)

    def tensor(self, name: str) -> Array:
        """A read-only view of the mapped file (see :meth:`SafetensorsFile.tensor`)."""
        return self._shard(name).tensor(name)

    def read(self, name: str) -> Array:
        """A fresh copy that is gone from memory when the caller drops it."""
        return self._shard(name).read(name)

    def read_rows(self, name: str, start: int, stop: int) -> Array:
        """A fresh copy of ``tensor[start:stop]``."""
        return self._shard(name).read_rows(name, start, stop)

    def chunks(self, name: str) -> Iterator[Array]:
        """The flattened tensor in fresh pieces of a few megabytes."""
        return self._shard(name).chunks(name)

    def lazy(self, name: str) -> StoredTensor:
        """The tensor as something that can be written elsewhere without being held."""
        return self._shard(name).lazy(name)

    def tensor_bytes(self, name: str) -> int:
        return self._shard(name).tensor_bytes(name)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors together, as stored."""
        return sum(shard.tensor_bytes(name) for name, shard in self._shard_of.items())

    @property
    def shards(self) -> tuple[Path, ...]:
        """The safetensors files that hold the tensors, sorted by name."""
        return tuple(sorted({shard.path for shard in self._shard_of.values()}))

    def content_hash(self) -> str:
        """SHA-256 over ``config.json`` and every byte of every shard, in hexadecimal.

        The digest of each file is remembered (see :mod:`flyweight.checkpoint.cache`), so that only the first call
        reads a large model through.

        Raises:
            CheckpointError: when a file cannot be read any more.
        """
        whole = hashlib.sha256()
        paths = (self.folder / "config.json", *self.shards)
        with ThreadPoolExecutor(kernels.thread_count(), thread_name_prefix="flyweight-digest") as pool:
            digests = pool.map(file_digest, paths)
            for path in paths:
                try:
                    whole.update(f"{path.name}\0{next(digests)}\n".encode())
                except OSError as error:
                    raise CheckpointError(f"{path} cannot be read: {error.strerror}; check the disk") from None
        return whole.hexdigest()

    def _shard(self, name: str) -> SafetensorsFile:
        if name not in self._shard_of:
            raise CheckpointError(f"{self.folder} holds no tensor {name!r}{nearest(name, self._shard_of)}")
        return self._shard_of[name]


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        CheckpointError: when the file is missing, too large, or holds no JSON object; ``remedy`` ends the message.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} has {path.stat().st_size} bytes, too many for a JSON file; {remedy}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; {remedy}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__} where an object is needed; {remedy}")
    return value


def _locate(model: str | Path, revision: str | None) -> Path:
    """The local folder of ``model``, fetched from the hub where it is an id that is no folder."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"revision={revision!r} was given, but {folder} is a local folder; leave it out")
        return folder
    if folder.exists():
        raise CheckpointError(f"{folder} is a file; give the folder that holds config.json and the safetensors files")
    if not isinstance(model, str) or not HUB_ID.fullmatch(model):
        raise CheckpointError(
            f"{str(model)!r} is neither an existing folder nor a hub id of the form organisation/name; check the path"
        )
    return _download(model, revision)


def _download(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # half a second that local folders do not pay

    try:
        # Subfolders hold other forms of the same weights (original/, onnx/); the loader reads the root only.
        return Path(
            snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=["*.safetensors", "*.json", *TEXT_FILES],
                ignore_patterns=["*/*", "consolidated*"],
            )
        )
    except (OSError, ValueError) as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{hub_id!r} is no local folder, and the hub gave no such model ({first_line}); check the name, the "
            "network and HF_HUB_OFFLINE, or download it on a machine with access and give its folder"
        ) from None


def _open_shards(folder: Path) -> dict[str, SafetensorsFile]:
    """Tensor name -> opened and checked file that holds it."""
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.exists():
        file = SafetensorsFile(single)
        return dict.fromkeys(file.names, file)
    if not index.exists():
        raise CheckpointError(_explain_no_weights(folder))
    remedy = "download the index again"
    weight_map = read_json(index, remedy).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map that names a shard for each tensor; {remedy}")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_plain_name(shard):
            raise CheckpointError(
                f"{index} places tensor {shown(tensor)} in {shown(shard)}, which is not the name of a .safetensors "
                f"file in the same folder; {remedy}, and do not trust this one"
            )
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks the shard {missing[0]} that {INDEX_FILE} names ({len(missing)} missing in all); download "
            "it again"
        )
    files = {shard: SafetensorsFile(folder / shard) for shard in shards}
    for tensor, shard in weight_map.items():
        if tensor not in files[shard]:
            raise CheckpointError(
                f"{folder / shard} lacks tensor {shown(tensor)}, which {INDEX_FILE} places there; download the shard "
                "and the index again"
            )
    return {tensor: files[shard] for tensor, shard in weight_map.items()}


def _is_plain_name(name: str) -> bool:
    """A file name that every disk can hold, without any way out of its folder."""
    return (
        name.endswith(".safetensors")
        and not name.startswith(".")
        and name.isprintable()
        and not set(name) & set("/\\")
        and len(name.encode()) <= 255
    )


def _explain_no_weights(folder: Path) -> str:
    found = sorted(path.name for path in folder.iterdir() if path.is_file())
    safetensors = [name for name in found if name.endswith(".safetensors")]
    pickled = [name for name in found if name.endswith(PICKLED_SUFFIXES)]
    other = [name for name in found if name.endswith(".gguf")]
    if safetensors:
        return (
            f"{folder} holds {safetensors[0]} but neither {SINGLE_FILE} nor {INDEX_FILE}; rename a single file to "
            f"{SINGLE_FILE}, or download the index that belongs to the shards"
        )
    if pickled:
        return (
            f"{folder} holds only pickled weights ({pickled[0]}), which can run code when they are read and are never "
            "opened here; convert them to safetensors (in transformers: model.save_pretrained(folder)), or use a "
            "revision of the model that has them"
        )
    if other:
        return f"{folder} holds {other[0]}, which is not read; give a checkpoint with {SINGLE_FILE}"
    return f"{folder} holds no weights: neither {SINGLE_FILE} nor {INDEX_FILE}; download the model again"
