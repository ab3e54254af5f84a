"""Which images are kept: the longest unused goes first, and left-overs of dead processes go too."""

import os
import time
from pathlib import Path

import pytest

from flyweight.errors import UsageError
from flyweight.runtime.image import ImageWriter
from flyweight.runtime.image_cache import (
    cached_images,
    clear_images,
    image_folder,
    image_path,
    make_room,
    mark_used,
    size_limit,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLYWEIGHT_CACHE", str(tmp_path))
    image_folder().mkdir()
    return image_folder()


def make_image(name: str, age: float) -> Path:
    path = image_path({"model": name})
    with ImageWriter(path) as writer:
        writer.finish({"key": {}, "model": name, "description": "int4"})
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_the_longest_unused_go_until_the_new_one_fits(folder: Path) -> None:
    paths = [make_image(name, age) for name, age in (("a", 300), ("b", 200), ("c", 100))]
    size = paths[0].stat().st_size
    assert [image.model for image in cached_images()] == ["a", "b", "c"]
    mark_used(paths[0])
    assert [image.model for image in cached_images()] == ["b", "c", "a"]
    assert make_room(size, limit=4 * size, keep=folder / "new.image") == ()
    gone = make_room(size, limit=3 * size, keep=folder / "new.image")
    assert [image.model for image in gone] == ["b"]
    assert sorted(image.model for image in cached_images()) == ["a", "c"]
    assert make_room(size, limit=2 * size, keep=paths[2]) == ()  # its own old content does not count
    assert clear_images() == 2 * size
    assert cached_images() == ()


def test_left_overs_of_dead_processes_go_and_unfinished_work_stays(folder: Path) -> None:
    dead, alive = folder / "x.image.1.partial", folder / "y.image.2.partial"
    for path in (dead, alive):
        path.write_bytes(b"half")
    os.utime(dead, (time.time() - 7200, time.time() - 7200))
    make_room(0, limit=10, keep=folder / "new.image")
    assert (dead.exists(), alive.exists()) == (False, True)


def test_a_damaged_image_is_listed_as_such(folder: Path) -> None:
    (folder / "z.image").write_bytes(b"no image")
    assert [image.model for image in cached_images()] == ["damaged"]


def test_the_limit_is_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert size_limit() == 50 * 10**9
    monkeypatch.setenv("FLYWEIGHT_IMAGE_LIMIT", "1.5GB")
    assert size_limit() == 1_500_000_000
    monkeypatch.setenv("FLYWEIGHT_IMAGE_LIMIT", "much")
    with pytest.raises(UsageError, match="'much'"):
        size_limit()
