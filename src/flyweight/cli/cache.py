"""``flyweight cache``: what is kept of prepared models, and making room."""

import json as json_format
import time
from typing import Annotated

from cyclopts import Parameter

from flyweight.reporting import Table, format_bytes, format_seconds, open_console, print_table
from flyweight.runtime.image_cache import CachedImage, cached_images, clear_images, image_folder, size_limit


def cache(
    *, clear: Annotated[bool, Parameter(negative="")] = False, json: Annotated[bool, Parameter(negative="")] = False
) -> int:
    """List the images of packed weights that are kept on disk, the longest unused first, or delete them.

    They are made again when they are needed. FLYWEIGHT_CACHE chooses the folder, FLYWEIGHT_IMAGE_LIMIT how much all
    images may take together (50 GB by default).

    Examples:

        flyweight cache

        flyweight cache --clear

    Parameters
    ----------
    clear
        Delete all images.
    json
        Print one JSON object.
    """
    if clear:
        freed = clear_images()
        print(json_format.dumps({"freed_bytes": freed}) if json else f"{format_bytes(freed)} freed")
        return 0
    images = cached_images()
    if json:
        print(json_format.dumps({"folder": str(image_folder()), "images": [_as_json(image) for image in images]}))
        return 0
    total = sum(image.nbytes for image in images)
    rows = [
        (image.model, format_bytes(image.nbytes), f"{format_seconds(max(0.0, time.time() - image.last_used))} ago")
        for image in images
    ]
    title = f"{image_folder()}: {format_bytes(total)} of at most {format_bytes(size_limit())}"
    print_table(Table(title=title, columns=("model", "bytes", "used"), rows=tuple(rows), num_labels=1), open_console())
    return 0


def _as_json(image: CachedImage) -> dict[str, object]:
    return {
        "path": str(image.path),
        "model": image.model,
        "description": image.description,
        "bytes": image.nbytes,
        "last_used": image.last_used,
    }
