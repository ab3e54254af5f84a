"""One linear layer: its method applied, the result and the report."""

import time
from dataclasses import dataclass

import numpy as np

from flyweight.compression.rules import Assignment
from flyweight.compression.statistics import InputStatistics
from flyweight.errors import DataError
from flyweight.formats.base import StoredWeight


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerReport:
    """What became of one linear layer. ``error`` is relative (root of sums of squares), of the layer's ``measured_on``:
    its outputs on the calibration inputs or its weight; 0 for a layer that was kept."""

    name: str
    format: str
    method: str
    bits_per_weight: float
    nbytes: int
    parameters: int
    error: float
    measured_on: str
    tokens: int
    seconds: float
    damping: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressedLayer:
    """A layer as it is to be stored, and its report."""

    stored: StoredWeight
    report: LayerReport


def compress_layer(assignment: Assignment, weight: StoredWeight, statistics: InputStatistics | None) -> CompressedLayer:
    """Apply the assignment to the layer's unquantized ``weight``.

    Raises:
        DataError: when the method cannot use the inputs it was given.
    """
    start = time.perf_counter()
    name = assignment.linear.name
    if assignment.format is None or assignment.method is None:
        stored, error, measured_on, damping = weight, 0.0, "weights", None
        notes: tuple[str, ...] = ("kept",)
    else:
        dense = np.ascontiguousarray(weight.decode(), np.float32)
        inputs = statistics if assignment.needs_inputs else None
        try:
            result = assignment.method.quantize(dense, inputs, assignment.format, assignment.options)
        except np.linalg.LinAlgError as fault:
            raise DataError(
                f"{name} cannot be calibrated: {fault}; try other calibration text, or a rule for it with method rtn"
            ) from fault
        stored, error, measured_on, damping, notes = (
            result.stored,
            result.error,
            result.measured_on,
            result.damping,
            result.notes,
        )
    report = LayerReport(
        name=name,
        format=stored.format.name,
        method="" if assignment.method is None else assignment.method.name,
        bits_per_weight=stored.bits_per_weight,
        nbytes=stored.nbytes,
        parameters=stored.shape[0] * stored.shape[1],
        error=error,
        measured_on=measured_on,
        tokens=0 if statistics is None or not assignment.needs_inputs else statistics.tokens,
        seconds=time.perf_counter() - start,
        damping=damping,
        notes=notes,
    )
    return CompressedLayer(stored=stored, report=report)
