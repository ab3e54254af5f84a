"""The verb ``cache`` lists what lies in the folder and deletes it."""

import json
from pathlib import Path

import pytest

from flyweight.cli import main
from flyweight.runtime.image import ImageWriter
from flyweight.runtime.image_cache import cached_images, image_folder


def test_images_are_listed_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("FLYWEIGHT_CACHE", str(tmp_path))
    image_folder().mkdir()
    with ImageWriter(image_folder() / "a.image") as writer:
        writer.finish({"model": "llama", "description": "int4", "key": {}})
    size = (image_folder() / "a.image").stat().st_size
    assert main(["cache"]) == 0
    assert "llama" in capsys.readouterr().out
    assert main(["cache", "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert (image["model"], image["bytes"]) == ("llama", size)
    assert main(["cache", "--clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"freed_bytes": size}
    assert cached_images() == ()
    assert main(["cache"]) == 0
