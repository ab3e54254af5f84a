"""Prepared weights in an image: written group by group while they are packed, and opened again without being read.

It joins what is prepared (:mod:`flyweight.runtime.prepared`) with the file (:mod:`flyweight.runtime.image`); it decides
neither whether there is an image nor where.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from flyweight import kernels
from flyweight.formats.base import Array
from flyweight.kernels.packed import LAYOUT_CLASS
from flyweight.runtime.ahead import one_ahead
from flyweight.runtime.image import (
    Image,
    ImageError,
    ImageWriter,
    StoredHandle,
    StoredPart,
    handle_from_json,
    part_from_json,
)
from flyweight.runtime.pager import PIECES_IN_CEILING, Pager, Span
from flyweight.runtime.prepared import PIECE_ROWS, Packing, PreparedGroup, PreparedWeights

CONTAINER_VERSION = 1


def image_key(packing: Packing) -> dict[str, Any]:
    """Everything that the bytes of an image depend on.

    Raises:
        CheckpointError: when a file of the checkpoint cannot be read.
    """
    return {
        "container": CONTAINER_VERSION,
        "layout": kernels.LAYOUT_VERSION,
        "layout_class": LAYOUT_CLASS,
        "byte_order": sys.byteorder,
        "checkpoint": packing.weights.checkpoint.content_hash(),
        "layers": packing.choices(),
    }


def write_image(
    path: Path,
    key: Mapping[str, Any],
    packing: Packing,
    *,
    description: str,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Read, pack and write every weight; one group of layers is packed while the one before is written, and no more are
    held. ``advance`` is called after each block.

    Raises:
        OSError: when the disk is full or the folder cannot be written; nothing of the image remains.
        CheckpointError: when a tensor cannot be read.
    """
    spec = packing.spec
    groups: dict[str, Any] = {}
    with ImageWriter(path) as writer:

        def add_biases(biases: tuple[Array | None, ...]) -> list[Any]:
            return [None if bias is None else asdict(writer.add_array(bias)) for bias in biases]

        packed_groups = one_ahead((group, packing.pack_group(group)) for block in spec.blocks for group in block.groups)
        for block in spec.blocks:
            for group, packed in islice(packed_groups, len(block.groups)):
                stored = [writer.add_handle(kernels.packed_kind(handle), [handle]) for handle in packed.handles]
                biases = add_biases(packed.biases)
                groups[group.linears[0].name] = {"handles": [asdict(one) for one in stored], "biases": biases}
                del packed
            advance()
        kind, pieces = packing.pack_head()
        head = writer.add_handle(kind, one_ahead(pieces))
        name = spec.head.linears[0].name
        groups[name] = {"handles": [asdict(head)], "biases": add_biases((packing.head_bias(),))}
        norms = {name: asdict(writer.add_array(norm)) for name, norm in packing.norms().items()}
        advance()
        writer.finish(
            {
                "key": dict(key),
                "model": packing.weights.checkpoint.folder.resolve().name,
                "description": description,
                "groups": groups,
                "norms": norms,
            }
        )


def open_image(path: Path, key: Mapping[str, Any], packing: Packing, *, verify: bool = False) -> "OpenedImage":
    """Map an image and check its header; with ``verify`` read it through and check every byte.

    Raises:
        FileNotFoundError: when there is none.
        ImageError: when it is damaged, or not what ``key`` asks for.
    """
    image = Image.open(path, key)
    try:
        groups = {
            name: StoredGroup(
                handles=tuple(handle_from_json(one) for one in group["handles"]),
                biases=tuple(None if one is None else part_from_json(one) for one in group["biases"]),
            )
            for name, group in image.header["groups"].items()
        }
        norms = {name: part_from_json(one) for name, one in image.header["norms"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ImageError(f"its header lacks what belongs there ({error!r})") from None
    opened = OpenedImage(image=image, packing=packing, groups=groups, norms=norms)
    if verify:
        image.verify(opened.parts())
    opened.weights()  # every handle can be made, of every group that the model has
    return opened


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredGroup:
    """One :class:`~flyweight.runtime.prepared.PreparedGroup` in an image."""

    handles: tuple[StoredHandle, ...]
    biases: tuple[StoredPart | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedImage:
    """An image whose header has been understood."""

    image: Image
    packing: Packing
    groups: Mapping[str, StoredGroup]
    norms: Mapping[str, StoredPart]

    @property
    def nbytes(self) -> int:
        """Bytes of the packed linears."""
        return sum(handle.nbytes for group in self.groups.values() for handle in group.handles)

    def parts(self) -> list[StoredPart]:
        """Everything that is stored, in no particular order."""
        handles = [part for group in self.groups.values() for handle in group.handles for part in handle.parts]
        biases = [bias for group in self.groups.values() for bias in group.biases if bias is not None]
        return [*handles, *biases, *self.norms.values()]

    def weights(self, *, ceiling: int | None = None, drop_cache: bool = False) -> PreparedWeights:
        """The prepared weights, as views of the mapping.

        Args:
            ceiling: keep no more than this of the packed linears in the process's memory: a part stays, the
                rest comes and goes, layer by layer. None: nothing is ever sent away.
            drop_cache: what goes leaves the system's file cache too, so that what stays is not pushed out.

        Raises:
            ImageError: when the image lacks a layer of the model.
        """
        spec = self.packing.spec
        names = [group.linears[0].name for block in spec.blocks for group in block.groups]
        names.append(spec.head.linears[0].name)
        largest = None if ceiling is None else max(ceiling // PIECES_IN_CEILING, 1)
        spans: dict[str, tuple[Span, ...]] = {}
        groups: dict[str, PreparedGroup] = {}
        for name in names:
            if name not in self.groups:
                raise ImageError(f"its header lacks {name}")
            groups[name], spans[name] = self._group(self.groups[name], largest)
        for norm in spec.norms:
            if norm.name not in self.norms:
                raise ImageError(f"its header lacks {norm.name}")
        pager = None
        if ceiling is not None:
            pager = Pager(self.image, spans, ceiling=ceiling, drop_cache=drop_cache)
        return PreparedWeights(
            groups=groups,
            norms={name: self.image.array(part) for name, part in self.norms.items()},
            embedding=self.packing.weights.embedding_rows(),
            pager=pager,
        )

    def _group(self, stored: StoredGroup, largest: int | None) -> tuple[PreparedGroup, tuple[Span, ...]]:
        handles, biases, spans = [], [], []
        for whole, part in zip(stored.handles, stored.biases, strict=True):
            bias = None if part is None else self.image.array(part)
            start = 0
            for piece in [whole] if largest is None else cut(whole, largest):
                stop = start + piece.kind.out_features
                handles.append(self.image.handle(piece))
                biases.append(None if bias is None else bias[start:stop])
                spans.append(tuple((part.offset, part.nbytes) for part in piece.parts if part.nbytes))
                start = stop
        return PreparedGroup(handles=tuple(handles), biases=tuple(biases)), tuple(spans)


def cut(stored: StoredHandle, largest: int) -> list[StoredHandle]:
    """A packed weight as pieces of consecutive outputs, of ``largest`` bytes or the fewest outputs that can be cut."""
    kind = stored.kind
    rows = max(1, int(kind.out_features * largest / max(1, stored.nbytes)) // PIECE_ROWS) * PIECE_ROWS
    pieces = []
    offsets = [part.offset for part in stored.parts]
    for start in range(0, kind.out_features, rows):
        piece = replace(kind, out_features=min(rows, kind.out_features - start))
        parts = tuple(
            StoredPart(offset=offset, nbytes=nbytes, sha256="")
            for offset, nbytes in zip(offsets, piece.part_bytes, strict=True)
        )
        pieces.append(StoredHandle(kind=piece, parts=parts))
        offsets = [offset + part.nbytes for offset, part in zip(offsets, parts, strict=True)]
    return pieces
