"""An image is whole or not there; what is damaged, stale or of something else is told apart before it is used."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyweight import kernels
from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.weights import Weights
from flyweight.models import read_spec
from flyweight.runtime import prepared, prepared_image
from flyweight.runtime.image import PAGE, PREAMBLE, ImageError, ImageWriter, StoredHandle, read_image_header
from flyweight.runtime.prepared import Packing, PreparedWeights
from flyweight.runtime.prepared_image import cut, image_key, open_image, write_image
from tests.support.checkpoints import write_tiny_llama


def packing_of(folder: Path, **choices: Any) -> Packing:
    checkpoint = Checkpoint.open(folder)
    spec = read_spec(checkpoint.config)
    return Packing(spec=spec, weights=Weights.open(checkpoint, spec), compute=choices.pop("compute", "auto"), **choices)


@pytest.fixture
def packing(tmp_path: Path) -> Packing:
    write_tiny_llama(tmp_path / "model", dtype="bfloat16", vocab_size=3000)
    return packing_of(tmp_path / "model")


@pytest.fixture
def path(tmp_path: Path, packing: Packing) -> Path:
    write_image(tmp_path / "one.image", image_key(packing), packing, description="tiny")
    return tmp_path / "one.image"


def bytes_of(weights: PreparedWeights) -> dict[str, list[bytes]]:
    return {
        name: [part.tobytes() for handle in group.handles for part in kernels.packed_parts(handle)]
        for name, group in weights.groups.items()
    }


@pytest.mark.parametrize("head", ["as-stored", "int8", "int6", "int4"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_image_holds_what_memory_would(tmp_path: Path, monkeypatch: Any, head: Any, tied: bool) -> None:
    monkeypatch.setattr(prepared, "PIECE_WEIGHTS", 64 * 1024)  # the head comes in three pieces
    write_tiny_llama(tmp_path / "model", dtype="bfloat16", vocab_size=3000, tied=tied)
    packing = packing_of(tmp_path / "model", head=head)
    write_image(tmp_path / "one.image", image_key(packing), packing, description="")
    opened = open_image(tmp_path / "one.image", image_key(packing), packing, verify=True)
    in_memory, mapped = PreparedWeights.from_packing(packing), opened.weights()
    assert bytes_of(mapped) == bytes_of(in_memory)
    assert mapped.nbytes == in_memory.nbytes == opened.nbytes
    assert 0.9 < packing.expected_bytes / mapped.nbytes < 1.1
    for name, norm in in_memory.norms.items():
        np.testing.assert_array_equal(mapped.norms[name], norm)
    assert not kernels.packed_parts(mapped.groups["lm_head"].handles[0])[0].flags.writeable


def test_a_head_in_pieces_is_the_whole_one(packing: Packing, monkeypatch: Any) -> None:
    whole = packing.weights.head(packing.spec).prepare(packing.head_compute)
    monkeypatch.setattr(prepared, "PIECE_WEIGHTS", 64 * 1024)
    kind, pieces = packing.pack_head()
    joined = prepared.join(kind, pieces)
    assert kernels.packed_kind(joined) == kernels.packed_kind(whole)
    for one, other in zip(kernels.packed_parts(joined), kernels.packed_parts(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_cut_weights_compute_what_the_whole_does(packing: Packing, path: Path) -> None:
    opened = open_image(path, image_key(packing), packing)
    whole: StoredHandle = opened.groups["lm_head"].handles[0]
    pieces = cut(whole, whole.nbytes // 3)
    assert [piece.kind.out_features for piece in pieces] == [1024, 1024, 952]
    x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    parts = [kernels.linear(x, opened.image.handle(piece)) for piece in pieces]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), kernels.linear(x, opened.image.handle(whole)))


@pytest.mark.parametrize("length", [0, 10, PAGE - 1, PAGE, 3 * PAGE, -1])
def test_a_truncated_image_is_refused(packing: Packing, path: Path, length: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:length])
    with pytest.raises(ImageError, match="bytes"):
        open_image(path, image_key(packing), packing)


def test_every_flipped_bit_before_and_in_the_header_is_seen_at_once(packing: Packing, path: Path) -> None:
    data = bytearray(path.read_bytes())
    _, offset, length, *_ = PREAMBLE.unpack_from(data)
    places = [*range(PREAMBLE.size), *range(offset, offset + length, 97)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ImageError):
            open_image(path, image_key(packing), packing)


def test_a_flipped_bit_in_a_weight_is_seen_when_asked_for(packing: Packing, path: Path) -> None:
    data = bytearray(path.read_bytes())
    stored = read_image_header(path)["groups"]["lm_head"]["handles"][0]["parts"][0]
    data[stored["offset"] + stored["nbytes"] // 2] ^= 4
    path.write_bytes(data)
    open_image(path, image_key(packing), packing)
    with pytest.raises(ImageError, match="checksum"):
        open_image(path, image_key(packing), packing, verify=True)


def test_an_image_of_another_layout_compute_or_checkpoint_is_refused(
    packing: Packing, path: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    other = packing_of(tmp_path / "model", compute="float32")
    assert image_key(other) != image_key(packing)
    with pytest.raises(ImageError, match="something else"):
        open_image(path, image_key(other), other)
    write_tiny_llama(tmp_path / "other", seed=1, dtype="bfloat16", vocab_size=3000)
    assert image_key(packing_of(tmp_path / "other")) != image_key(packing)
    assert image_key(packing_of(tmp_path / "model", head="int8")) != image_key(packing)
    monkeypatch.setattr(prepared_image.kernels, "LAYOUT_VERSION", kernels.LAYOUT_VERSION + 1)
    with pytest.raises(ImageError, match="something else"):
        open_image(path, image_key(packing), packing)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("groups"),
        lambda header: header["groups"].pop("lm_head"),
        lambda header: header["norms"].popitem(),
        lambda header: header.update(groups=[]),
        lambda header: header["groups"]["lm_head"]["handles"][0]["kind"].update(out_features=1 << 20),
        lambda header: header["groups"]["lm_head"]["handles"][0]["kind"].update(compute="int3"),
        lambda header: header["groups"]["lm_head"]["handles"][0]["kind"].update(extra=1),
        lambda header: header["groups"]["lm_head"]["handles"][0]["parts"][0].update(offset=-PAGE),
        lambda header: header["groups"]["lm_head"]["handles"][0]["parts"][0].update(offset=1 << 60),
        lambda header: header["groups"]["lm_head"]["handles"][0]["parts"][0].update(offset="0"),
        lambda header: header["groups"]["lm_head"]["handles"][0]["parts"].pop(),
    ],
)
def test_a_header_that_lies_is_refused_though_its_checksum_is_right(packing: Packing, path: Path, change: Any) -> None:
    header = read_image_header(path)
    change(header)
    with ImageWriter(path) as writer:
        writer.finish(header)
    with pytest.raises(ImageError):
        open_image(path, image_key(packing), packing)


def test_an_unfinished_image_leaves_nothing(tmp_path: Path, packing: Packing, monkeypatch: Any) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        write_image(tmp_path / "one.image", image_key(packing), packing, description="")
    assert [one.name for one in tmp_path.iterdir()] == ["model"]


def test_a_mapped_image_may_be_replaced_or_deleted(packing: Packing, path: Path) -> None:
    weights = open_image(path, image_key(packing), packing).weights()
    expected = bytes_of(PreparedWeights.from_packing(packing))
    path.unlink()
    assert bytes_of(weights) == expected


def test_parts_begin_on_pages(path: Path) -> None:
    text = json.dumps(read_image_header(path))
    offsets = [int(piece.split(",")[0]) for piece in text.split('"offset": ')[1:]]
    assert len(offsets) > 10
    assert all(offset % PAGE == 0 for offset in offsets)
