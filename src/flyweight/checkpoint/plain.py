"""The layout of an unquantized checkpoint: each linear layer is one float tensor ``NAME.weight``."""

from collections.abc import Iterable, Mapping

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.layouts import LAYOUTS, Activations, Expected
from flyweight.formats.base import Format, StoredWeight
from flyweight.formats.plain import Plain, float_name, stored_plain
from flyweight.models.spec import LinearSpec


@LAYOUTS.add("plain")
class PlainLayout:
    """A :class:`~flyweight.checkpoint.layouts.Layout` of ``NAME.weight`` (out_features, in_features)."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def expected(self, linear: LinearSpec) -> Mapping[str, Expected]:
        return {f"{linear.name}.weight": Expected(shapes=((linear.out_features, linear.in_features),))}

    def optional(self, linear: LinearSpec) -> Iterable[str]:
        return ()

    def format(self, linear: LinearSpec) -> Format:
        return Plain(dtype=float_name(self._checkpoint.dtype(f"{linear.name}.weight")))

    def activations(self, linear: LinearSpec) -> Activations:
        return "float"

    def read(self, linear: LinearSpec, *, mapped: bool) -> StoredWeight:
        name = f"{linear.name}.weight"
        return stored_plain(self._checkpoint.tensor(name) if mapped else self._checkpoint.read(name))

    def read_rows(self, linear: LinearSpec, start: int, stop: int) -> StoredWeight:
        return stored_plain(self._checkpoint.read_rows(f"{linear.name}.weight", start, stop))
