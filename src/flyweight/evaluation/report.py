"""What an evaluation found, as data: everything printed, plotted or compared with a gate is read from here."""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from flyweight.evaluation.gate import Gate, GateVerdict, judge
from flyweight.evaluation.golden import GoldenResult
from flyweight.evaluation.protocol import Protocol
from flyweight.evaluation.statistics import Figure

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """Which model, and how it ran.

    ``bits_per_weight`` is over the linear layers of the blocks, scales and zero points included; ``formats`` maps a
    format's name to the number of those layers stored so.
    """

    name: str
    content_hash: str
    architecture: str
    num_weights: int
    weight_bytes: int
    bits_per_weight: float
    formats: dict[str, int]
    compute: str
    kernels: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexities:
    """exp of the mean negative log-likelihood per token, word and byte, and its log2 per byte."""

    token: Figure
    word: Figure
    byte: Figure
    bits_per_byte: Figure


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The candidate against the original on the same tokens; every interval is paired.

    ``kl_*`` in nats per token; ``top1`` is the share of tokens whose top token is the original's; ``delta_p_*`` is the
    change of the probability given to the token that came (mean, and root of the mean square).
    """

    ppl_ratio: Figure
    ppl_difference: Figure
    kl_mean: Figure
    kl_median: Figure
    kl_p99: Figure
    kl_max: Figure
    top1: Figure
    delta_p_mean: Figure
    delta_p_rms: Figure
    predictions: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentResult:
    """One document: tokens scored, mean negative log-likelihood (nats), and the comparison where there is one."""

    index: int
    num_tokens: int
    nll: float
    original_nll: float | None
    kl: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """``counts`` between neighbouring ``edges``."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextResult:
    """Everything measured on the evaluation text."""

    protocol: Protocol
    perplexity: Perplexities
    original: Perplexities | None
    comparison: Comparison | None
    documents: tuple[DocumentResult, ...]
    kl_histogram: Histogram | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationReport:
    """A whole evaluation. ``text``, ``golden`` and ``gate`` are None where none was asked for."""

    model: ModelFacts
    against: ModelFacts | None
    text: TextResult | None
    golden: GoldenResult | None
    gate: GateVerdict | None
    options: dict[str, Any]
    flyweight_version: str
    machine: str
    date: str
    seconds: float

    @property
    def passed(self) -> bool:
        """False only when a gate said no."""
        return self.gate is None or self.gate.passed

    def judged(self, gate: Gate) -> "EvaluationReport":
        """The same report with the verdict of ``gate``."""
        maxima, minima = {}, {}
        if self.text is not None and self.text.comparison is not None:
            found = self.text.comparison
            maxima = {"max_kl": found.kl_mean, "max_kl_p99": found.kl_p99, "max_ppl_ratio": found.ppl_ratio}
            minima = {"min_top1": found.top1}
        golden = {} if self.golden is None else {task.task: task.exact_match for task in self.golden.tasks}
        return dataclasses.replace(self, gate=judge(gate, maxima, minima, golden))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a figure that is infinite (a broken model's) becomes None."""
        found: dict[str, Any] = _finite({"schema": SCHEMA, "passed": self.passed, **dataclasses.asdict(self)})
        return found

    def to_json(self) -> str:
        """Strict JSON, indented."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
