"""Norm, rotary positions and the gated activation as kernel cases. Their arrays are small: the caches serve them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from flyweight import kernels
from flyweight.bench.cases import Case, CaseGroup
from flyweight.models.spec import ModelSpec


def elementwise_groups(spec: ModelSpec, *, rows: Sequence[int]) -> Iterator[CaseGroup]:
    """One group with norm, rope and act_mul for each row count."""
    for count in rows:
        yield CaseGroup(name=f"elementwise rows {count}", kind="elementwise", build=partial(_build, spec, count))


def _build(spec: ModelSpec, rows: int) -> list[Case]:
    generator = np.random.default_rng(0)
    block = spec.blocks[0]
    attention = block.attention
    width = block.mlp.down.in_features
    x = generator.standard_normal((rows, spec.hidden_size), dtype=np.float32)
    weight, normed = np.ones(spec.hidden_size, np.float32), np.empty_like(x)
    q = generator.standard_normal((rows, attention.num_heads, attention.head_dim), dtype=np.float32)
    angles = generator.standard_normal((rows, attention.head_dim // 2), dtype=np.float32)
    gate_up = generator.standard_normal((rows, 2 * width), dtype=np.float32)
    product = np.empty((rows, width), np.float32)

    def case(name: str, size: str, nbytes: int, operations: int, call: Callable[[], object]) -> Case:
        return Case(
            name=name,
            kind="elementwise",
            size=size,
            rows=rows,
            nbytes=nbytes,
            operations=operations,
            arithmetic=None,
            memory="cache",
            call=call,
        )

    return [
        case(
            "rms_norm",
            str(spec.hidden_size),
            2 * x.nbytes,
            4 * x.size,
            partial(kernels.rms_norm, x, weight, 1e-5, 0.0, normed),
        ),
        case(
            "rope",
            f"{attention.num_heads} x {attention.head_dim}",
            2 * q.nbytes + 2 * angles.nbytes,
            3 * q.size,
            partial(kernels.rope, q, np.cos(angles), np.sin(angles), q),
        ),
        case(
            f"act_mul {block.mlp.activation}",
            f"2 x {width}",
            gate_up.nbytes + product.nbytes,
            10 * product.size,
            partial(kernels.act_mul, gate_up, block.mlp.activation, product),
        ),
    ]
