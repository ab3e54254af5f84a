"""What runs a model's steps, seen from the engine: batches in, hidden rows and logits out.

``OpByOp`` walks the decoder anew for every step, over any ``Ops``. A backend that does a whole step in one call
implements ``Runner`` itself. Nothing here knows requests or who planned a batch.
"""

from collections.abc import Callable
from typing import Any, Protocol

from flyweight.formats.base import Array
from flyweight.models.spec import ModelSpec
from flyweight.runtime.batch import Batch
from flyweight.runtime.decoder import run_blocks, run_head
from flyweight.runtime.ops import Ops


class Runner(Protocol):
    """One model over one key-value cache."""

    def forward(self, batch: Batch) -> Array:
        """Logits float32 (outputs, vocab_size) of the batch's ``output_rows``."""
        ...

    def hidden(self, batch: Batch) -> Any:
        """What the head reads, (outputs, hidden_size) of the batch's ``output_rows``; an array that can be sliced."""
        ...

    def logits(self, hidden: Any) -> Array:
        """Logits float32 (rows, vocab_size) of rows of ``hidden``."""
        ...


class OpByOp:
    """A ``Runner`` that calls one operation after another.

    Args:
        to_numpy: from the backend's logits to a float32 array.
    """

    def __init__(self, spec: ModelSpec, ops: Ops, to_numpy: Callable[[Any], Array] = lambda logits: logits) -> None:
        self._spec = spec
        self._ops = ops
        self._to_numpy = to_numpy

    def forward(self, batch: Batch) -> Array:
        return self.logits(self.hidden(batch))

    def hidden(self, batch: Batch) -> Any:
        return run_blocks(self._spec, self._ops, batch)

    def logits(self, hidden: Any) -> Array:
        return self._to_numpy(run_head(self._spec, self._ops, hidden))
