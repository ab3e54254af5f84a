"""Round to nearest: scales from the range of the weights, or clipped where that loses less. Needs no inputs.

The clip search is that of the GPTQ authors' quantizer (shrink the range in steps, keep the least error), with the
squared error of the weights.
"""

from dataclasses import dataclass
from typing import Any, Literal

from array_api_compat import array_namespace

from flyweight.compression.methods.base import METHODS, Method, Quantized
from flyweight.compression.statistics import InputStatistics
from flyweight.errors import RecipeError
from flyweight.formats.int_group import IntGroup

ROWS_AT_ONCE = 256  # keeps the search's temporaries in the cache


@dataclass(frozen=True, kw_only=True, slots=True)
class RtnOptions:
    """Options of ``rtn``.

    ``scales``: ``minmax`` covers the whole range of a group; ``mse`` tries ``clip_steps`` ranges from the whole down to
    ``clip_smallest`` of it and keeps the one with the least squared error.
    """

    scales: Literal["minmax", "mse"] = "minmax"
    clip_smallest: float = 0.5
    clip_steps: int = 40

    def __post_init__(self) -> None:
        if self.scales not in ("minmax", "mse"):
            raise RecipeError(f"scales={self.scales!r} is unknown; choose minmax or mse")
        check_clip(self.clip_smallest, self.clip_steps)


def check_clip(smallest: object, steps: object) -> None:
    """Raise RecipeError unless the two describe a search over clipped ranges."""
    if not isinstance(smallest, int | float) or not 0.1 <= smallest < 1.0:
        raise RecipeError(f"clip_smallest={smallest!r} must be a fraction of the range, from 0.1 to below 1")
    if not isinstance(steps, int) or not 2 <= steps <= 200:
        raise RecipeError(f"clip_steps={steps!r} must be a whole number from 2 to 200")


def clip_ratios(smallest: float, steps: int) -> tuple[float, ...]:
    """``steps`` fractions of the range from 1 down to ``smallest``."""
    return tuple(1.0 - (1.0 - smallest) * step / (steps - 1) for step in range(steps))


def quantize(weight: Any, statistics: InputStatistics | None, form: IntGroup, options: RtnOptions) -> Quantized:
    """Round ``weight`` (out_features, in_features) to nearest. ``statistics`` are not used."""
    xp = array_namespace(weight)
    grouped = form.grouped(weight)
    rows = grouped.shape[0]
    codes, scales, zeros = [], [], []
    squared_error = squared_norm = 0.0
    for start in range(0, rows, ROWS_AT_ONCE):
        part = grouped[start : start + ROWS_AT_ONCE, ...]
        scale, zero = choose_scales(part, form, options)
        code = form.quantize(part, scale[..., None], None if zero is None else zero[..., None])
        lost = part - _values(code, scale, zero)
        squared_error += float(xp.sum(lost * lost))
        squared_norm += float(xp.sum(part * part))
        codes.append(code)
        scales.append(scale)
        zeros.append(zero)
    return Quantized(
        stored=form.store(
            xp.reshape(xp.concat(codes), weight.shape),
            xp.concat(scales),
            None if form.symmetric else xp.concat(zeros),
        ),
        error=(squared_error / max(squared_norm, 1e-30)) ** 0.5,
        measured_on="weights",
    )


def choose_scales(grouped: Any, form: IntGroup, options: RtnOptions) -> tuple[Any, Any | None]:
    """Scales and zero points (rows, groups) for weights (rows, groups, length)."""
    xp = array_namespace(grouped)
    low, high = xp.min(grouped, axis=-1), xp.max(grouped, axis=-1)
    best_scale, best_zero = form.parameters(low, high)
    if options.scales == "minmax":
        return best_scale, best_zero
    best = xp.full(low.shape, xp.inf, dtype=grouped.dtype)
    for ratio in clip_ratios(options.clip_smallest, options.clip_steps):
        scale, zero = form.parameters(low * ratio, high * ratio)
        codes = form.quantize(grouped, scale[..., None], None if zero is None else zero[..., None])
        lost = grouped - _values(codes, scale, zero)
        error = xp.sum(lost * lost, axis=-1)
        better = error < best
        best = xp.where(better, error, best)
        best_scale = xp.where(better, scale, best_scale)
        best_zero = None if zero is None else xp.where(better, zero, best_zero)
    return best_scale, best_zero


def _values(codes: Any, scales: Any, zero_points: Any | None) -> Any:
    """What codes (rows, groups, length) stand for."""
    return (codes if zero_points is None else codes - zero_points[..., None]) * scales[..., None]


METHODS.add("rtn")(
    Method(
        name="rtn",
        needs_inputs=False,
        wants_targets=lambda options, tokens_per_input: False,
        options_type=RtnOptions,
        quantize=quantize,
    )
)
