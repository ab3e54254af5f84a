"""The decoder walked on symbols: the program of a step, and where its matrices lie."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flyweight.models import read_spec
from flyweight.models.spec import ModelSpec, NormSpec
from flyweight.runtime.program import ActMul, Add, Attend, Cap, Embed, Heads, Linear, Matrix, Select, place
from flyweight.runtime.tracing import TracingOps, UntraceableError, trace
from tests.support.checkpoints import tiny_llama_config


def spec_with(**changes: Any) -> ModelSpec:
    """A small model; ``query_norm`` and ``key_norm`` by their sizes, other changes to the whole."""
    spec = read_spec(tiny_llama_config(num_layers=2))
    norms = {key: changes.pop(key) for key in ("query_norm", "key_norm") if key in changes}
    norms = {key: NormSpec(name=key, size=size, eps=1e-6) for key, size in norms.items()}
    blocks = tuple(replace(block, attention=replace(block.attention, **norms)) for block in spec.blocks)
    return replace(spec, blocks=blocks, **changes)


MODELS = {
    "plain": spec_with(),
    "norm per head": spec_with(query_norm=16, key_norm=16),
    "norm over heads": spec_with(query_norm=64, key_norm=32),
    "capped": spec_with(logit_softcap=30.0),
}


def test_a_block_is_this_list() -> None:
    block = [Heads, Linear, Heads, Heads, Heads, Attend, Linear, Add, Heads, Linear, ActMul, Linear, Add]
    program = trace(MODELS["plain"])
    last = [*block[:6], Select, Select, *block[6:]]
    assert [type(one) for one in program.body] == [Embed, *block, *last]
    assert [type(one) for one in program.head] == [Heads, Linear]


def test_a_norm_of_heads_and_its_rotation_are_one_instruction() -> None:
    def heads(name: str) -> list[tuple[bool, bool]]:
        return [(one.norm is not None, one.rope is not None) for one in trace(MODELS[name]).body if type(one) is Heads]

    norm, copy = (True, False), (False, False)
    assert heads("norm per head")[:5] == [norm, (True, True), (True, True), copy, norm]
    assert heads("norm over heads")[:7] == [norm, norm, norm, (False, True), (False, True), copy, norm]


@pytest.mark.parametrize("name", MODELS)
def test_no_result_overwrites_what_is_still_read(name: str) -> None:
    program = trace(MODELS[name])
    places = place(program)
    last_read = {view.matrix: index for index, one in enumerate(program.instructions) for view in one.reads}
    written: dict[Matrix, int] = {}
    for index, one in enumerate(program.instructions):
        for other in written:
            in_use = last_read.get(other, -1) > index or (
                last_read.get(other) == index and not in_place(one, other, places)
            )
            assert not (in_use and overlap(one.out, other, places)), f"{one} overwrites {other}"
        written[one.out] = index
    assert set(places) == {one.out for one in program.instructions}


def in_place(one: Any, other: Matrix, places: Any) -> bool:
    return isinstance(one, (Add, Cap, ActMul)) and places[one.out] == places[other]


def overlap(one: Matrix, other: Matrix, places: Any) -> bool:
    first, second = places[one], places[other]
    return bool(
        first.region == second.region
        and first.offset < second.offset + second.stride
        and second.offset < first.offset + first.stride
    )


def test_the_arena_does_not_grow_with_layers() -> None:
    def widest(layers: int) -> int:
        places = place(trace(read_spec(tiny_llama_config(num_layers=layers))))
        return max(room.offset + room.stride for room in places.values() if room.region == "tokens")

    assert widest(2) == widest(9) <= 64 + 64 + 2 * 96


def test_logits_exist_once() -> None:
    program = trace(MODELS["capped"])
    places = place(program)
    assert places[program.head[-1].reads[0].matrix] == places[program.logits]


def test_what_a_program_cannot_express_is_an_error() -> None:
    ops, spec = TracingOps(), MODELS["plain"]
    x = ops.embed(spec.embedding, ops.batch.token_ids)
    heads = x.reshape("tokens", 4, 16)
    for wrong in (
        lambda: ops.embed(spec.embedding, np.zeros(1, np.int32)),
        lambda: x[3],
        lambda: x[:, ::2],
        lambda: x[:5],
        lambda: heads[:, :3],
        lambda: x.reshape("tokens", 3, 16),
        lambda: ops.linear(spec.head, heads),
        lambda: ops.norm(NormSpec(name="n", size=8, eps=1e-5), x),
        lambda: ops.add(x, heads, 1.0),
        lambda: ops.rope(spec.blocks[0].attention.rope, x, ops.batch),
        lambda: ops.select(ops.select(x)),
    ):
        with pytest.raises(UntraceableError):
            wrong()
