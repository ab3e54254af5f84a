"""What a compression method is: a pure function from a weight and what is known of its inputs to a stored weight.

A method knows neither checkpoints nor models nor the order in which layers are visited.
"""

from collections.abc import Callable
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Literal, Protocol

from flyweight.compression.statistics import InputStatistics
from flyweight.errors import RecipeError
from flyweight.formats.base import StoredWeight
from flyweight.formats.int_group import IntGroup
from flyweight.registry import Registry


class MethodOptions(Protocol):
    """Any frozen dataclass: each method has one of its own, checked at birth."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantized:
    """What a method gives back.

    ``error`` is the relative error, root of sums of squares: of the layer's outputs on the calibration inputs where the
    method knows them (``measured_on`` is then ``outputs``), else of the weight (``weights``). ``damping`` is the
    damping that the factorization needed, relative to the Hessian's mean diagonal. ``notes`` are for the report.
    """

    stored: StoredWeight
    error: float
    measured_on: Literal["outputs", "weights"]
    damping: float | None = None
    notes: tuple[str, ...] = ()


QuantizeFunction = Callable[[Any, InputStatistics | None, IntGroup, Any], Quantized]


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A registered method.

    ``quantize(weight, statistics, format, options)`` takes a float32 weight (out_features, in_features), which it may
    not change, the statistics of its inputs (None unless ``needs_inputs``), and an ``options_type``.
    ``wants_targets`` says whether, with given options and calibration tokens per input, the statistics should hold
    target outputs.
    """

    name: str
    needs_inputs: bool
    wants_targets: Callable[[Any, float], bool]
    options_type: type[MethodOptions]
    quantize: QuantizeFunction


METHODS: Registry[Method] = Registry("method", RecipeError)
