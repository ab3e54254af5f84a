"""What an evaluation can be told. The fields are the command line's options; their texts are its help."""

from dataclasses import dataclass
from pathlib import Path

from flyweight.errors import UsageError
from flyweight.evaluation.protocol import BosRule, Kind
from flyweight.runtime.prepared import ModelCompute


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateOptions:
    """How to evaluate.

    Raises:
        UsageError: when a value is out of range.
    """

    protocol: Kind = "rolling"
    """How the text is cut: rolling (lm-evaluation-harness's definition), documents (each alone, cut off at the window)
    or windows (one stream of tokens, windows that start every stride)."""

    window: int | None = None
    """Tokens the model may see at once, BOS included; by default its context, at most 2048."""

    stride: int | None = None
    """Protocol windows: tokens between the starts of windows; by default the window's length."""

    bos: BosRule = "auto"
    """Start each document or window with BOS: window, none, or auto for window where the tokenizer has a BOS."""

    max_documents: int | None = None
    """Use only the first so many documents of the text."""

    max_golden: int | None = None
    """Use only so many golden prompts of each task, spread evenly over its file."""

    gate: Path | None = None
    """YAML file with limits; exit code 1 when the model does not keep one."""

    compute: ModelCompute = "auto"
    """What the model's activations are computed in."""

    against_compute: ModelCompute = "auto"
    """What the original's activations are computed in."""

    chunk_tokens: int = 512
    """Tokens whose logits are held at once."""

    confidence: float = 0.95
    """Confidence of the intervals."""

    resamples: int = 1000
    """Bootstrap resamples."""

    seed: int = 0
    """Seed of the bootstrap."""

    cache_limit: str = "4GB"
    """Most that stored predictions of originals may take in the cache folder; what would not fit runs side by side."""

    def __post_init__(self) -> None:
        for name, smallest in (
            ("window", 2),
            ("stride", 1),
            ("max_documents", 1),
            ("max_golden", 1),
            ("chunk_tokens", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise UsageError(f"{name}={value} is too small; choose {smallest} or more")
        if not 100 <= self.resamples <= 100_000:
            raise UsageError(f"resamples={self.resamples} is out of range; choose 100 to 100000")
        if not 0.5 <= self.confidence <= 0.999:
            raise UsageError(f"confidence={self.confidence} is out of range; choose 0.5 to 0.999")
