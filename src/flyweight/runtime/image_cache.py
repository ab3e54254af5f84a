"""Which images are kept: a folder of them in the cache, named by what they were made of; the longest unused goes first.

It knows names, sizes and times of use; what is in an image is :mod:`flyweight.runtime.image`'s business.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.checkpoint.cache import cache_folder
from flyweight.reporting.units import parse_bytes
from flyweight.runtime.image import PARTIAL_SUFFIX, ImageError, read_image_header

SUFFIX = ".image"
LIMIT_VARIABLE = "FLYWEIGHT_IMAGE_LIMIT"
DEFAULT_LIMIT = 50 * 10**9
ABANDONED_SECONDS = 3600.0  # an unfinished image that nobody has written to for so long belongs to a process that died


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedImage:
    """An image in the folder. ``model`` is the name of the checkpoint's folder, ``last_used`` in seconds since 1970."""

    path: Path
    model: str
    description: str
    nbytes: int
    last_used: float


def image_folder() -> Path:
    """Where images lie: ``images`` in the cache folder (see :func:`flyweight.checkpoint.cache.cache_folder`)."""
    return cache_folder() / "images"


def image_path(key: Mapping[str, Any]) -> Path:
    """The image that was, or will be, made under ``key``."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return image_folder() / f"{digest[:32]}{SUFFIX}"


def size_limit() -> int:
    """Bytes that all images together may take: ``FLYWEIGHT_IMAGE_LIMIT``, such as ``20GB``; by default 50 GB.

    Raises:
        UsageError: when the variable holds no size.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    return DEFAULT_LIMIT if not text else parse_bytes(text)


def cached_images() -> tuple[CachedImage, ...]:
    """All images, the longest unused first. One whose header cannot be read has the model ``damaged``."""
    images = []
    for path in _files(image_folder(), SUFFIX):
        try:
            status = path.stat()
        except OSError:
            continue  # another process has just deleted it
        try:
            header = read_image_header(path)
            model, description = str(header.get("model", "")), str(header.get("description", ""))
        except (ImageError, OSError):
            model, description = "damaged", ""
        images.append(
            CachedImage(
                path=path, model=model, description=description, nbytes=status.st_size, last_used=status.st_mtime
            )
        )
    return tuple(sorted(images, key=lambda image: (image.last_used, image.path.name)))


def make_room(nbytes: int, *, limit: int, keep: Path) -> tuple[CachedImage, ...]:
    """Delete the longest unused images until ``nbytes`` more fit under ``limit``; returns what was deleted.

    ``keep`` is the name of the image about to be written: its old content does not count. Left-overs of processes that
    died are deleted as well. A process that has a deleted image mapped keeps it until it ends.
    """
    for path in _files(image_folder(), PARTIAL_SUFFIX):
        with suppress(OSError):  # its owner has just finished or removed it
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink()
    images = [image for image in cached_images() if image.path != keep]
    total = sum(image.nbytes for image in images) + nbytes
    deleted = []
    for image in images:
        if total <= limit:
            break
        image.path.unlink(missing_ok=True)
        total -= image.nbytes
        deleted.append(image)
    return tuple(deleted)


def mark_used(path: Path) -> None:
    """Make an image the last to go."""
    with suppress(OSError):  # a read-only cache: nothing is deleted there either
        os.utime(path)


def clear_images() -> int:
    """Delete all images; returns their bytes."""
    images = cached_images()
    for image in images:
        image.path.unlink(missing_ok=True)
    return sum(image.nbytes for image in images)


def _files(folder: Path, suffix: str) -> list[Path]:
    return [path for path in folder.glob(f"*{suffix}") if path.is_file()]
