"""A runner whose tokens get the same bits whatever runs beside them: another one, in the kernels' mode for it."""

from typing import Any

from flyweight import kernels
from flyweight.formats.base import Array
from flyweight.runtime.batch import Batch
from flyweight.runtime.runner import Runner


class BatchInvariant:
    """``runner`` with the kernels in batch-invariant mode during each call, and as they were before after it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def forward(self, batch: Batch) -> Array:
        with kernels.use_batch_invariant(True):
            return self._runner.forward(batch)

    def hidden(self, batch: Batch) -> Any:
        with kernels.use_batch_invariant(True):
            return self._runner.hidden(batch)

    def logits(self, hidden: Any) -> Array:
        with kernels.use_batch_invariant(True):
            return self._runner.logits(hidden)
