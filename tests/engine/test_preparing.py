"""Starting from an image: the same answers, a bad image made again, and none where none can be kept."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyweight.engine import preparing
from flyweight.engine.load import load
from flyweight.engine.preparing import WeightOptions
from flyweight.engine.sampling import SamplingOptions
from flyweight.errors import ResourceError, UsageError
from flyweight.runtime.image_cache import cached_images, image_folder
from tests.support.checkpoints import write_tiny_llama

GREEDY = SamplingOptions(temperature=0.0, max_tokens=12)
PROMPT = [3, 14, 15, 92, 65]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLYWEIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_tiny_llama(tmp_path / "model", dtype="bfloat16", num_layers=3)
    return tmp_path / "model"


def answer(model: Path, **options: Any) -> tuple[int, ...]:
    loaded = load(model, cache_tokens=64, weights=WeightOptions(**options))
    return loaded.generate([PROMPT], GREEDY)[0].token_ids


def test_the_second_start_maps_what_the_first_has_written(model: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "flyweight")
    without = answer(model, image_cache="off")
    assert not image_folder().exists()
    assert "packed in memory" in caplog.text
    caplog.clear()
    first = answer(model)
    (image,) = cached_images()
    assert image.model == "model"
    assert "bfloat16" in image.description
    written = image.path.stat().st_ino
    assert (first, answer(model), answer(model, verify_image=True)) == (without,) * 3
    assert image.path.stat().st_ino == written
    assert caplog.text.count(f"mapped from {image.path}") == 3
    assert answer(model, image_cache="rebuild") == without
    assert image.path.stat().st_ino != written


def test_a_damaged_image_is_made_again(model: Path, caplog: Any) -> None:
    expected = answer(model)
    (image,) = cached_images()
    whole = image.path.read_bytes()
    image.path.write_bytes(whole[: len(whole) // 2])
    assert answer(model) == expected
    assert "cannot be used" in caplog.text
    assert image.path.read_bytes() == whole
    damaged = bytearray(whole)
    damaged[8192] ^= 1
    image.path.write_bytes(damaged)
    assert answer(model, verify_image=True) == expected
    assert image.path.read_bytes() == whole


def test_a_changed_checkpoint_has_another_image(model: Path) -> None:
    before = answer(model)
    write_tiny_llama(model, seed=9, dtype="bfloat16", num_layers=3)
    assert answer(model) == answer(model, image_cache="off") != before
    assert len(cached_images()) == 2


def test_a_full_disk_is_done_without(model: Path, caplog: Any, monkeypatch: Any) -> None:
    expected = answer(model, image_cache="off")
    monkeypatch.setattr(preparing, "free_bytes", lambda _: 1000)
    assert answer(model) == expected
    assert "1.00 kB free" in caplog.text
    assert cached_images() == ()
    monkeypatch.setattr(preparing, "free_bytes", lambda _: 1 << 40)

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert answer(model) == expected
    assert "No space left on device" in caplog.text
    assert list(image_folder().iterdir()) == []


def test_a_cache_that_cannot_be_written_is_done_without(
    model: Path, tmp_path: Path, caplog: Any, monkeypatch: Any
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLYWEIGHT_CACHE", str(tmp_path / "file"))
    assert len(answer(model)) == 12
    assert "no image of the packed weights is kept" in caplog.text


def test_a_cache_in_a_folder_for_reading_only_is_read(model: Path, monkeypatch: Any) -> None:
    expected = answer(model)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(preparing, "write_image", refuse)
    assert answer(model) == expected


def test_an_image_beyond_the_limit_is_not_kept(model: Path, caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("FLYWEIGHT_IMAGE_LIMIT", "10kB")
    assert len(answer(model)) == 12
    assert "FLYWEIGHT_IMAGE_LIMIT allows 10.0 kB" in caplog.text


def test_processes_that_start_at_once_leave_one_whole_image(model: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from flyweight.engine.load import load\n"
        "from flyweight.engine.preparing import WeightOptions\n"
        "for _ in range(5): load(Path(sys.argv[1]), cache_tokens=64, weights=WeightOptions(image_cache='rebuild'))"
    )
    starts = [subprocess.Popen([sys.executable, "-c", script, str(model)]) for _ in range(2)]
    assert [start.wait(60) for start in starts] == [0, 0]
    assert len(list(image_folder().iterdir())) == 1
    assert answer(model, verify_image=True) == answer(model, image_cache="off")


@pytest.mark.parametrize("head", ["int8", "int4"])
def test_a_rounded_head_is_near_the_stored_one(model: Path, head: Any) -> None:
    stored = load(model, cache_tokens=64, compute="float32")
    rounded = load(model, cache_tokens=64, compute="float32", weights=WeightOptions(head=head))
    again = load(model, cache_tokens=64, compute="float32", weights=WeightOptions(head=head, image_cache="off"))
    assert f"head {head} g" in rounded.description[1]
    logits = [next(one.score([PROMPT]))[2] for one in (stored, rounded, again)]
    np.testing.assert_array_equal(logits[1], logits[2])
    error = np.abs(logits[1] - logits[0]).max() / np.abs(logits[0]).max()
    assert (0 < error < 0.01) if head == "int8" else (0.01 < error < 0.2)


def test_options_that_cannot_be_followed_are_refused(model: Path) -> None:
    with pytest.raises(UsageError, match="choose on, off, rebuild"):
        WeightOptions(image_cache="maybe")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="choose as-stored, int8, int6, int4"):
        WeightOptions(head="int2")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'lots'"):
        WeightOptions(memory="lots")
    with pytest.raises(UsageError, match="backend='torch'"):
        load(model, backend="torch", weights=WeightOptions(image_cache="off"))
    with pytest.raises(ResourceError, match=r"more than memory=10\.0 MB allows"):
        load(model, weights=WeightOptions(memory="10MB"))


SCRIPT = """
import sys
from pathlib import Path
from flyweight.engine.load import load
from flyweight.engine.preparing import WeightOptions
from flyweight.engine.sampling import SamplingOptions
memory = sys.argv[2] if len(sys.argv) > 2 else None
model = load(Path(sys.argv[1]), cache_tokens=64, weights=WeightOptions(memory=memory))
options = SamplingOptions(temperature=0.0, max_tokens=6)
print(*model.generate([[3, 14, 15, 92, 65]], options)[0].token_ids)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) << 10)
print(model.description[-2])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_model_larger_than_its_memory_gives_the_same_tokens_below_it(tmp_path: Path) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_layers": 5, "num_heads": 8, "vocab_size": 4096}
    write_tiny_llama(tmp_path / "model", dtype="bfloat16", num_shards=8, **sizes)  # 160 MB

    def run(*memory: str) -> tuple[str, int, str]:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "model"), *memory]
        tokens, peak, line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        return tokens, int(peak), line

    unbounded, peak, _ = run()
    assert peak > 225e6
    bounded, peak, line = run("210MB")
    assert bounded == unbounded
    assert peak < 210e6
    assert "do not fit into memory" in line
