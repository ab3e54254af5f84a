"""Kept tables give the bits that the rule gives for every token, on both sides of every border."""

from typing import Any

import numpy as np
import pytest

from flyweight.models.rope import rope_table
from flyweight.models.spec import RopeSpec
from flyweight.runtime.batch import Batch
from flyweight.runtime.rope_tables import RopeTables

ROPES = {
    "default": RopeSpec(rotary_dim=20, theta=10000.0),
    "llama3": RopeSpec(
        rotary_dim=64, theta=500000.0, kind="llama3", factor=8.0, high_freq_factor=4.0, original_max_positions=64
    ),
    "yarn": RopeSpec(rotary_dim=16, theta=10000.0, kind="yarn", factor=4.0, original_max_positions=32),
    "dynamic": RopeSpec(rotary_dim=16, theta=10000.0, kind="dynamic", factor=3.0, max_positions=16),
    "longrope": RopeSpec(
        rotary_dim=8,
        theta=10000.0,
        kind="longrope",
        factor=4.0,
        original_max_positions=16,
        short_factor=(1.0, 1.1, 1.3, 1.4),
        long_factor=(1.0, 1.5, 3.0, 6.0),
    ),
}


def batch(*spans: tuple[int, int]) -> Batch:
    """Sequences that compute positions start to stop."""
    counts = [stop - start for start, stop in spans]
    positions = np.concatenate([np.arange(start, stop) for start, stop in spans]).astype(np.int32)
    empty: Any = np.zeros(0, np.int64)
    return Batch(
        token_ids=np.zeros(len(positions), np.int32),
        positions=positions,
        query_starts=np.cumsum([0, *counts]).astype(np.int32),
        context_lengths=np.array([stop for _, stop in spans], np.int32),
        block_tables=np.zeros((len(spans), 1), np.int32),
        slots=empty,
        output_rows=empty,
    )


@pytest.mark.parametrize("kind", ROPES)
def test_rows_are_those_of_the_rule(kind: str) -> None:
    tables = RopeTables(ROPES[kind])
    for step in (
        batch((0, 7), (3, 4)),
        batch((7, 16)),
        batch((9, 12), (15, 17)),
        batch((17, 19), (30, 31)),
        batch((400, 1500)),
    ):
        rows = tables.rows(step)
        lengths = np.repeat(step.context_lengths, np.diff(step.query_starts))
        cosine, sine = rope_table(ROPES[kind], step.positions, lengths)
        np.testing.assert_array_equal(rows.cosine[rows.rows], cosine)
        np.testing.assert_array_equal(rows.sine[rows.rows], sine)


def test_a_table_is_kept_until_a_position_is_beyond_it() -> None:
    tables = RopeTables(ROPES["default"])
    first = tables.rows(batch((0, 9))).cosine
    assert tables.rows(batch((200, 256))).cosine is first
    assert len(tables.rows(batch((256, 257))).cosine) == 2 * len(first)
