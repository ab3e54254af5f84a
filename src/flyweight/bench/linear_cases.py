"""Linear layers as kernel cases: the layers of one block and the head, by storage, arithmetic and row count."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import ml_dtypes
import numpy as np

from flyweight import kernels
from flyweight.bench.cases import Arithmetic, Case, CaseGroup, in_turn
from flyweight.models.spec import LinearGroup, ModelSpec

GROUP_SIZE = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """How a weight is stored (``bits`` None: bfloat16) and what products are computed in."""

    name: str
    bits: int | None
    compute: Literal["int8", "bfloat16"]

    @property
    def arithmetic(self) -> Arithmetic:
        """The peak that bounds it: some processors multiply codes of four bits faster than those of eight."""
        return "int4" if self.bits == 4 and self.compute == "int8" else self.compute


PRECISIONS: Mapping[str, Precision] = {
    one.name: one
    for one in (
        Precision(name="int4-int8", bits=4, compute="int8"),
        Precision(name="int6-int8", bits=6, compute="int8"),
        Precision(name="int8-int8", bits=8, compute="int8"),
        Precision(name="bfloat16-bfloat16", bits=None, compute="bfloat16"),
        Precision(name="int4-bfloat16", bits=4, compute="bfloat16"),
        Precision(name="int8-bfloat16", bits=8, compute="bfloat16"),
    )
}


def linear_groups(
    spec: ModelSpec, *, precisions: Sequence[str], layers: Sequence[str], rows: Sequence[int], working_set: int
) -> Iterator[CaseGroup]:
    """One group of cases for each precision and layer.

    Args:
        precisions: keys of ``PRECISIONS``.
        layers: of ``qkv``, ``output``, ``gate_up``, ``down`` and ``head``.
        working_set: bytes of weights that successive calls walk through, as decoding walks through a model.
    """
    found = named_layers(spec)
    for precision in (PRECISIONS[name] for name in precisions):
        for layer in layers:
            name = f"linear {precision.name} {layer}"
            build = partial(
                _build, name, precision, found[layer].in_features, found[layer].out_features, rows, working_set
            )
            yield CaseGroup(name=name, kind="linear", build=build)


def named_layers(spec: ModelSpec) -> dict[str, LinearGroup]:
    """The linear groups of the first block and the head by the names used here."""
    block = spec.blocks[0]
    return {
        "qkv": block.attention.qkv,
        "output": block.attention.output,
        "gate_up": block.mlp.gate_up,
        "down": block.mlp.down,
        "head": spec.head,
    }


def _build(
    name: str, precision: Precision, in_features: int, out_features: int, rows: Sequence[int], working_set: int
) -> list[Case]:
    generator = np.random.default_rng(0)
    make = _maker(precision, in_features, out_features, generator)
    first = make()
    handles = [first, *(make() for _ in range(min(64, working_set // first.nbytes)))]
    cases = []
    for count in rows:
        x = generator.standard_normal((count, in_features), dtype=np.float32)
        out = np.empty((count, out_features), np.float32)
        cases.append(
            Case(
                name=name,
                kind="linear",
                size=f"{in_features} -> {out_features}",
                rows=count,
                nbytes=first.nbytes + x.nbytes + out.nbytes,
                operations=2 * count * in_features * out_features,
                arithmetic=precision.arithmetic,
                memory="memory",
                call=in_turn([partial(kernels.linear, x, handle, None, out) for handle in handles]),
            )
        )
    return cases


def _maker(
    precision: Precision, in_features: int, out_features: int, generator: np.random.Generator
) -> Callable[[], kernels.LinearHandle]:
    """Packs the same random weight anew at each call: the values do not matter, the place in memory does."""
    if precision.bits is None:
        weight = generator.standard_normal((out_features, in_features), dtype=np.float32).astype(ml_dtypes.bfloat16)
        return lambda: kernels.prepare_plain(weight, compute="bfloat16")
    bits = precision.bits
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    codes = generator.integers(low, high, (out_features, in_features), dtype=np.int8)
    group_size = GROUP_SIZE if in_features % GROUP_SIZE == 0 else in_features
    scales = np.full((out_features, in_features // group_size), 0.01, ml_dtypes.bfloat16)
    return lambda: kernels.prepare_int_group(
        codes, scales, None, bits=bits, group_size=group_size, compute=precision.compute
    )
