"""The choice of tokens from rows of logits as kernel cases. A row of logits is small: the caches serve it."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from flyweight import kernels
from flyweight.bench.cases import Case, CaseGroup
from flyweight.models.spec import ModelSpec

RULES = {
    "greedy": kernels.ChoiceRule(),
    "temperature 1": kernels.ChoiceRule(temperature=1.0),
    "top-k 40, top-p 0.95": kernels.ChoiceRule(temperature=1.0, top_k=40, top_p=0.95),
}


def sampling_groups(spec: ModelSpec, *, rows: Sequence[int]) -> Iterator[CaseGroup]:
    """One group for each rule; its cases are so many rows of the model's vocabulary."""
    for name in RULES:
        yield CaseGroup(name=f"sampling {name}", kind="sampling", build=partial(_build, spec, name, tuple(rows)))


def _build(spec: ModelSpec, name: str, rows: Sequence[int]) -> list[Case]:
    generator = np.random.default_rng(0)
    cases = []
    for count in rows:
        logits = 3 * generator.standard_normal((count, spec.vocab_size), dtype=np.float32)
        cases.append(
            Case(
                name=f"sampling {name}",
                kind="sampling",
                size=str(spec.vocab_size),
                rows=count,
                nbytes=logits.nbytes,
                operations=logits.size,
                arithmetic=None,
                memory="cache",
                call=partial(kernels.sample, logits, [RULES[name]] * count),
            )
        )
    return cases
