"""What every way of laying out a model's linear layers in a checkpoint can do, and the table of those known.

A layout turns a layer's tensors, whatever their names, into a ``StoredWeight``. This module defines the seam and
the checks that all layouts share; it does not know any particular layout.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.safetensors_header import shown
from flyweight.errors import CheckpointError, UnsupportedModelError
from flyweight.formats.base import Format, StoredWeight
from flyweight.formats.plain import FLOAT_DTYPES
from flyweight.models.spec import LinearSpec
from flyweight.registry import Registry

Activations = Literal["float", "int8"]
FLOATS = tuple(FLOAT_DTYPES.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What a tensor must look like: one of ``shapes``, one of ``dtypes``."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...] = FLOATS


class Layout(Protocol):
    """How the linear layers of one opened checkpoint are stored."""

    def expected(self, linear: LinearSpec) -> Mapping[str, Expected]:
        """The tensors that hold the layer's weight, by name; not its bias.

        Raises:
            UnsupportedModelError: when the layer is stored in a way that cannot be read.
        """
        ...

    def optional(self, linear: LinearSpec) -> Iterable[str]:
        """Names of further tensors of the layer that may be there and carry nothing to keep."""
        ...

    def format(self, linear: LinearSpec) -> Format:
        """The format of the layer's weight, told from the config and the header; no tensor is read."""
        ...

    def activations(self, linear: LinearSpec) -> Activations:
        """``int8`` where the checkpoint asks for inputs quantized per token at run time, else ``float``."""
        ...

    def read(self, linear: LinearSpec, *, mapped: bool) -> StoredWeight:
        """The layer's weight. ``mapped`` lets plain tensors be views of the file rather than copies.

        Raises:
            CheckpointError: when the values contradict the format (codes out of range, scales that are not finite).
        """
        ...

    def read_rows(self, linear: LinearSpec, start: int, stop: int) -> StoredWeight:
        """Rows (outputs) ``start`` to ``stop`` of the layer's weight, as fresh copies.

        Raises:
            CheckpointError: as :meth:`read`.
        """
        ...


LAYOUTS: Registry[Callable[[Checkpoint], Layout]] = Registry("quant_method", UnsupportedModelError)
"""``quant_method`` of ``quantization_config`` -> what opens the layout; ``plain`` is a checkpoint without one."""


def open_layout(checkpoint: Checkpoint) -> Layout:
    """The layout that ``config.json`` declares.

    Raises:
        UnsupportedModelError: when the quantization method, or an option of it, is not one we read.
    """
    config = checkpoint.config.get("quantization_config")
    if config is None:
        return LAYOUTS["plain"](checkpoint)
    method = config.get("quant_method") if isinstance(config, dict) else None
    if not isinstance(method, str):
        raise CheckpointError(
            f"{checkpoint.folder}/config.json has a quantization_config without quant_method; supported: "
            f"{', '.join(sorted(LAYOUTS))}: download config.json again"
        )
    if method not in LAYOUTS:
        raise UnsupportedModelError(
            f"{checkpoint.folder} is quantized with quant_method {shown(method)}, which is not read; supported: "
            f"{', '.join(sorted(LAYOUTS))}: start from the unquantized checkpoint"
        )
    return LAYOUTS[method](checkpoint)


def check_tensors(checkpoint: Checkpoint, expected: Mapping[str, Expected]) -> None:
    """Check presence, shape and dtype of every tensor from the headers alone.

    Raises:
        CheckpointError: naming the tensor, what was expected and what was found.
    """
    missing = [name for name in expected if name not in checkpoint]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{checkpoint.folder} lacks tensor {missing[0]} of shape {_shapes(expected[missing[0]])}{more}"
            f"{_stored_otherwise(checkpoint, missing[0])}; download the checkpoint again, or check that config.json "
            "belongs to it"
        )
    for name, wanted in expected.items():
        if checkpoint.shape(name) not in wanted.shapes:
            raise CheckpointError(
                f"{checkpoint.folder}: tensor {name} has shape {list(checkpoint.shape(name))}, but config.json "
                f"asks for {_shapes(wanted)}; check that config.json belongs to these weights"
            )
        if checkpoint.dtype(name) not in wanted.dtypes:
            raise CheckpointError(
                f"{checkpoint.folder}: tensor {name} has dtype {checkpoint.dtype(name)}, which is not read there; "
                f"allowed: {', '.join(str(dtype) for dtype in wanted.dtypes)}"
            )


def _shapes(expected: Expected) -> str:
    return " or ".join(str(list(shape)) for shape in expected.shapes)


def _stored_otherwise(checkpoint: Checkpoint, missing: str) -> str:
    """Why a weight may be missing: the layer is there under the tensors of another layout."""
    module = missing.rpartition(".")[0]
    beside = [name for name in checkpoint.names if name.startswith(f"{module}.")]
    if not beside:
        return ""
    return f"; the layer is stored as {', '.join(beside)}, which does not fit what quantization_config says of it"
