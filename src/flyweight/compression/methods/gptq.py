"""GPTQ: round the inputs' columns in turn, feeding each column's error to the columns that follow.

Frantar et al., arXiv:2210.17323, in its left-looking form (Chee et al., arXiv:2307.13304, LDLQ). With
``H = X^T X + damping = M M^T`` and M upper triangular, the loss of a rounding What is ``|(W - What) M|^2``. For
columns B whose predecessors P are rounded, the weights that make up best for the errors so far are
``W'_B = W_B + (W_P - What_P) M_PB (M_BB)^-1``; inside B the textbook loop runs with ``U_BB = (M_BB)^-1``.

Scales of a group are chosen from W', the weights that will really be rounded, by the loss that the loop itself reports.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from array_api_compat import array_namespace, is_torch_array

from flyweight.compression.linear_algebra import multiply_upper, solve_factored_in_place
from flyweight.compression.methods.base import METHODS, Method, Quantized
from flyweight.compression.methods.columns import Columns, fit_columns, round_columns
from flyweight.compression.methods.rtn import RtnOptions, check_clip, clip_ratios
from flyweight.compression.methods.rtn import quantize as round_to_nearest
from flyweight.compression.statistics import Factor, InputStatistics
from flyweight.errors import RecipeError
from flyweight.formats.base import Array
from flyweight.formats.int_group import IntGroup

COLUMNS_AT_ONCE = 128
SAMPLED_ROWS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class GptqOptions:
    """Options of ``gptq``.

    damping           added to the Hessian's diagonal, relative to its mean; raised where the factorization needs it
    shrinkage         further damping, times inputs per calibration token: statistics of few tokens are trusted less
    correct           aim at what the uncompressed model gives, where the driver knows it, rather than at what the
                      uncompressed layer would make of inputs that already carry the errors of the layers before it
    correct_from      calibration tokens per input (of the layer with most) from which ``correct`` applies: with fewer
                      the targets are mostly chance
    order             ``groups``: columns by falling activation inside each group, groups by their largest (no g_idx
                      needed); ``none``: as stored
    scales            ``minmax`` covers the range; ``loss`` tries ``clip_steps`` ranges down to ``clip_smallest`` of it
                      and keeps the one with the least GPTQ loss
    fewest_tokens     a layer that saw fewer calibration tokens is rounded to nearest instead, and the report names it
    """

    damping: float = 0.01
    shrinkage: float = 1.0
    correct: bool = True
    correct_from: float = 2.0
    order: Literal["groups", "none"] = "groups"
    scales: Literal["minmax", "loss"] = "loss"
    clip_smallest: float = 0.6
    clip_steps: int = 9
    fewest_tokens: int = 64

    def __post_init__(self) -> None:
        if not isinstance(self.damping, int | float) or not 0 < self.damping <= 1:
            raise RecipeError(f"damping={self.damping!r} must be above 0 and at most 1; 0.01 is usual")
        if not isinstance(self.shrinkage, int | float) or self.shrinkage < 0:
            raise RecipeError(f"shrinkage={self.shrinkage!r} must be 0 or more; 1 is usual")
        if not isinstance(self.correct, bool):
            raise RecipeError(f"correct={self.correct!r} must be true or false")
        if not isinstance(self.correct_from, int | float) or self.correct_from < 0:
            raise RecipeError(f"correct_from={self.correct_from!r} must be 0 or more; 2 is usual")
        if self.order not in ("groups", "none"):
            raise RecipeError(f"order={self.order!r} is unknown; choose groups or none")
        if self.scales not in ("minmax", "loss"):
            raise RecipeError(f"scales={self.scales!r} is unknown; choose minmax or loss")
        if not isinstance(self.fewest_tokens, int) or self.fewest_tokens < 1:
            raise RecipeError(f"fewest_tokens={self.fewest_tokens!r} must be a positive whole number")
        check_clip(self.clip_smallest, self.clip_steps)

    @property
    def ratios(self) -> tuple[float, ...]:
        return (1.0,) if self.scales == "minmax" else clip_ratios(self.clip_smallest, self.clip_steps)


def quantize(weight: Any, statistics: InputStatistics | None, form: IntGroup, options: GptqOptions) -> Quantized:
    """Round ``weight`` (out_features, in_features), float32, with its inputs' ``statistics``, factored in place.

    Every linear that shares the inputs may pass the same statistics with the same options and group size: they are
    factored once.
    """
    assert statistics is not None, "gptq needs the statistics of its inputs"
    if statistics.tokens < options.fewest_tokens:
        fallback = round_to_nearest(weight, None, form, RtnOptions(scales="mse"))
        note = f"saw {statistics.tokens} tokens, fewer than {options.fewest_tokens}: rounded to nearest"
        return Quantized(stored=fallback.stored, error=fallback.error, measured_on="weights", notes=(note,))
    xp = array_namespace(weight)
    length = form.group_length(weight.shape[1])
    dead = statistics.dead
    num_dead = int(xp.sum(xp.astype(dead, xp.int32)))
    order = column_order(_host(statistics.diagonal), length, options.order)
    factor = statistics.factor(options.damping + options.shrinkage * weight.shape[1] / statistics.tokens, order)
    ordered = weight if factor.order is None else xp.take(weight, xp.asarray(factor.order), axis=1)
    if options.correct and statistics.cross is not None:
        ordered = _corrected(ordered, factor, statistics.cross)
    if num_dead:
        dead = dead if factor.order is None else xp.take(dead, xp.asarray(factor.order))
        ordered = xp.where(dead[None, :], xp.zeros_like(ordered), ordered)
    norm = _squared_norm(ordered, factor)
    codes, scales, zeros, squared_error = _round_in_order(ordered, factor, form, options, length)
    if factor.order is not None:
        codes = xp.take(codes, xp.asarray(np.argsort(factor.order)), axis=1)
        if scales.shape[1] > 1:
            original = xp.asarray(np.argsort(factor.order[::length] // length))
            scales, zeros = xp.take(scales, original, axis=1), xp.take(zeros, original, axis=1)
    notes = [f"damping raised to {factor.damping:g}"] if factor.raised else []
    notes += [f"{num_dead} inputs were always zero"] if num_dead else []
    return Quantized(
        stored=form.store(codes, scales, None if form.symmetric else zeros),
        error=(squared_error / max(norm, 1e-30)) ** 0.5,
        measured_on="outputs",
        damping=factor.damping,
        notes=tuple(notes),
    )


def column_order(diagonal: Array, length: int, order: str) -> Array | None:
    """The order in which columns are rounded, groups of ``length`` staying together; None when it is the stored one."""
    if order == "none":
        return None
    grouped = diagonal.reshape(-1, length)
    groups = np.argsort(-grouped.max(axis=1), kind="stable")
    inner = np.argsort(-grouped, axis=1, kind="stable")
    result: Array = (groups[:, None] * length + inner[groups]).reshape(-1)
    return result


def _corrected(weight: Any, factor: Factor, cross: Any) -> Any:
    """The weight whose outputs come nearest to the targets, with the damping holding it to ``weight`` (both in order).

    It minimizes ``|X W^T - T|^2 + ridge |W - weight|^2``: with the targets that the uncompressed model gives, a layer
    also makes up for what the layers before it lost.
    """
    xp = array_namespace(weight)
    rhs = factor.ridge * weight.T
    rhs += cross if factor.order is None else xp.take(cross, xp.asarray(factor.order), axis=0)
    solve_factored_in_place(factor.upper, rhs)
    return xp.asarray(rhs.T, copy=True)


def _squared_norm(weight: Any, factor: Factor) -> float:
    """``|X W^T|^2``, extrapolated from at most ``SAMPLED_ROWS`` rows spread over the outputs."""
    xp = array_namespace(weight)
    step = -(-weight.shape[0] // SAMPLED_ROWS)
    rows = weight[::step, ...]
    projected = multiply_upper(rows, factor.upper)
    norm = float(xp.sum(projected * projected)) - factor.ridge * float(xp.sum(rows * rows))
    return norm * (int(weight.shape[0]) / int(rows.shape[0]))


def _round_in_order(
    weight: Any, factor: Factor, form: IntGroup, options: GptqOptions, length: int
) -> tuple[Any, Any, Any, float]:
    """Codes (out, in), scales and zero points (rows, groups) in rounding order, and the squared error in outputs."""
    xp = array_namespace(weight)
    in_features = weight.shape[1]
    upper = factor.upper
    errors = xp.zeros_like(weight)  # W - What
    codes = xp.zeros_like(weight, dtype=xp.int8)
    scales, zeros = [], []
    squared_error = 0.0
    for begin in range(0, in_features, length):
        group = slice(begin, begin + length)
        corner = xp.triu(upper[group, group])
        inverse = xp.linalg.inv(corner) if begin or length <= COLUMNS_AT_ONCE else None
        current = weight[:, group]
        if begin:
            current = current + (errors[:, :begin] @ upper[:begin, group]) @ inverse
        rounded = _round_group(current, corner, inverse, form, options)
        scales.append(rounded.scale)
        zeros.append(rounded.zero)
        codes[:, group] = rounded.codes
        errors[:, group] = weight[:, group] - (rounded.codes - rounded.zero[:, None]) * rounded.scale[:, None]
        # The factor's loss counts the damping as well, which is no output lost.
        squared_error += float(xp.sum(rounded.losses)) - factor.ridge * float(xp.sum(errors[:, group] ** 2))
    return codes, xp.stack(scales, axis=1), xp.stack(zeros, axis=1), squared_error


def _round_group(current: Any, corner: Any, inverse: Any, form: IntGroup, options: GptqOptions) -> Columns:
    """Round a group's weights ``current`` (rows, length), whose factor is ``corner``, under the scales that ``options``
    choose; up to ``COLUMNS_AT_ONCE`` columns with its ``inverse``, more in runs of so many."""
    xp = array_namespace(current)
    length = current.shape[1]
    if length <= COLUMNS_AT_ONCE:
        return fit_columns(current, inverse, options.ratios, form)
    scale, zero = _fit_by_diagonal(current, corner, form, options.ratios)
    codes, errors = xp.zeros_like(current, dtype=xp.int8), xp.zeros_like(current)
    losses = xp.zeros_like(scale)
    for begin in range(0, length, COLUMNS_AT_ONCE):
        run = slice(begin, min(begin + COLUMNS_AT_ONCE, length))
        of_run = xp.linalg.inv(corner[run, run])
        now = current[:, run]
        if begin:
            now = now + (errors[:, :begin] @ corner[:begin, run]) @ of_run
        columns = round_columns(now, of_run, scale, zero, form)
        codes[:, run] = columns.codes
        errors[:, run] = current[:, run] - (columns.codes - zero[:, None]) * scale[:, None]
        losses = losses + columns.losses
    return Columns(codes=codes, scale=scale, zero=zero, losses=losses)


def _fit_by_diagonal(current: Any, corner: Any, form: IntGroup, ratios: tuple[float, ...]) -> tuple[Any, Any]:
    """A scale and a zero point (rows,) for weights ``current`` (rows, length): the diagonal of the loss stands for it
    where the column loop would be long."""
    xp = array_namespace(current)
    low, high = xp.min(current, axis=1), xp.max(current, axis=1)
    best_scale, best_zero, best = None, None, None
    for ratio in ratios:
        scale, zero = form.parameters(low * ratio, high * ratio)
        zero = xp.zeros_like(scale) if zero is None else zero
        if len(ratios) == 1:
            return scale, zero
        rounded = form.quantize(current, scale[:, None], None if form.symmetric else zero[:, None])
        lost = (current - (rounded - zero[:, None]) * scale[:, None]) * xp.linalg.diagonal(corner)
        loss = xp.sum(lost * lost, axis=1)
        if best is None:
            best_scale, best_zero, best = scale, zero, loss
            continue
        better = loss < best
        best = xp.where(better, loss, best)
        best_scale, best_zero = xp.where(better, scale, best_scale), xp.where(better, zero, best_zero)
    return best_scale, best_zero


def _host(values: Any) -> Array:
    return values.cpu().numpy() if is_torch_array(values) else np.asarray(values)


def _wants_targets(options: GptqOptions, tokens_per_input: float) -> bool:
    return options.correct and tokens_per_input >= options.correct_from


METHODS.add("gptq")(
    Method(
        name="gptq",
        needs_inputs=True,
        wants_targets=_wants_targets,
        options_type=GptqOptions,
        quantize=quantize,
    )
)
