"""Weights made ready for running: opened from the cached image, or packed anew and kept as one.

What goes wrong with an image costs time, never the run: a damaged one is made again, and where none can be written the
weights are packed into memory. The log says which it was. It knows no requests and no cache of keys and values.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flyweight.checkpoint.safetensors_file import free_bytes
from flyweight.errors import UsageError
from flyweight.reporting.units import format_bytes, parse_bytes
from flyweight.runtime.image import ImageError
from flyweight.runtime.image_cache import LIMIT_VARIABLE, image_path, make_room, mark_used, size_limit
from flyweight.runtime.prepared import HEAD_CHOICES, HeadChoice, Packing
from flyweight.runtime.prepared_image import OpenedImage, image_key, open_image, write_image

ImageChoice = Literal["on", "off", "rebuild"]
IMAGE_CHOICES = ("on", "off", "rebuild")

log = logging.getLogger("flyweight")


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightOptions:
    """How the native backend keeps a model's weights.

    Raises:
        UsageError: when a field is unknown or no size.
    """

    memory: str | None = None
    """Most memory that the process may keep resident, such as 2GB; weights that do not fit are read again and again."""

    image_cache: ImageChoice = "on"
    """Keep the packed weights in a file and map it at the next start (on), do without it (off), or make it anew
    (rebuild)."""

    verify_image: bool = False
    """Read the image through and check every byte before it is used."""

    head: HeadChoice = "as-stored"
    """Keep the output head as it is stored, or round it to int8, int6 or int4 when it is packed."""

    def __post_init__(self) -> None:
        if self.image_cache not in IMAGE_CHOICES:
            raise UsageError(f"image_cache={self.image_cache!r} is unknown; choose {', '.join(IMAGE_CHOICES)}")
        if self.head not in HEAD_CHOICES:
            raise UsageError(f"head={self.head!r} is unknown; choose {', '.join(HEAD_CHOICES)}")
        if self.memory is not None:
            parse_bytes(self.memory)

    @property
    def memory_bytes(self) -> int | None:
        """``memory`` in bytes."""
        return None if self.memory is None else parse_bytes(self.memory)


def open_or_build(
    packing: Packing, options: WeightOptions, *, description: str, advance: Callable[[], None] = lambda: None
) -> OpenedImage | None:
    """The model's image, made first where there is none that can be used; None with ``off`` or where none can be kept.

    Args:
        description: what the image holds, for those who list images.
        advance: called after each block that is packed.

    Raises:
        CheckpointError: when a tensor cannot be read.
    """
    if options.image_cache == "off":
        return None
    limit = size_limit()
    key = image_key(packing)
    path = image_path(key)
    if options.image_cache == "on":
        try:
            opened = open_image(path, key, packing, verify=options.verify_image)
        except FileNotFoundError:
            pass
        except (ImageError, OSError) as error:
            log.warning("%s cannot be used (%s); the weights are packed again", path, error)
        else:
            mark_used(path)
            return opened
    expected = packing.expected_bytes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for image in make_room(expected, limit=limit, keep=path):
            log.info("deleted the image of %s, the longest unused, to keep under %s", image.model, format_bytes(limit))
        free = free_bytes(path.parent)
        if expected > limit:
            _warn(f"it would take {format_bytes(expected)}; {LIMIT_VARIABLE} allows {format_bytes(limit)}")
            return None
        if expected > free:
            _warn(f"it takes {format_bytes(expected)} and {path.parent} has {format_bytes(free)} free")
            return None
        write_image(path, key, packing, description=description, advance=advance)
        return open_image(path, key, packing)
    except (ImageError, OSError) as error:
        _warn(f"{path.parent}: {error.strerror if isinstance(error, OSError) else error}")
        return None


def _warn(reason: str) -> None:
    log.warning(
        "no image of the packed weights is kept (%s); they are packed into memory at every start: make room, or choose "
        "another folder with FLYWEIGHT_CACHE",
        reason,
    )
