"""A model that takes part in an evaluation: its facts at once, the loaded model when first needed."""

import hashlib
from collections import Counter
from pathlib import Path

from flyweight import kernels
from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.checkpoint.weights import Weights
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.load import load
from flyweight.evaluation.inspection import inspect_checkpoint
from flyweight.evaluation.log_probabilities import STORAGE_VERSION
from flyweight.evaluation.report import ModelFacts
from flyweight.models import read_spec
from flyweight.models.spec import ModelSpec
from flyweight.progress import Progress
from flyweight.runtime.prepared import ModelCompute, base_compute, linear_compute
from flyweight.tokenizer import Tokenizer
from flyweight.version import __version__


class Subject:
    """A model that takes part: opened at once, loaded when first run."""

    def __init__(
        self, checkpoint: Checkpoint, spec: ModelSpec, facts: ModelFacts, compute: ModelCompute, progress: Progress
    ) -> None:
        self.checkpoint = checkpoint
        self.spec = spec
        self.facts = facts
        self.tokenizer = Tokenizer.open(checkpoint.folder)
        self._compute = compute
        self._progress = progress
        self._model: LanguageModel | None = None

    @classmethod
    def open(cls, model: str | Path, compute: ModelCompute, progress: Progress) -> "Subject":
        checkpoint = Checkpoint.open(model)
        spec = read_spec(checkpoint.config)
        weights = Weights.open(checkpoint, spec)
        found = inspect_checkpoint(checkpoint, spec, weights)
        facts = ModelFacts(
            name=str(model),
            content_hash=checkpoint.content_hash(),
            architecture=found.architecture,
            num_weights=found.num_weights,
            weight_bytes=found.weight_bytes,
            bits_per_weight=found.bits_per_weight,
            formats=found.formats,
            compute=_describe_compute(spec, weights, compute),
            kernels=kernels.isa(),
        )
        return cls(checkpoint, spec, facts, compute, progress)

    @property
    def bos_text(self) -> str | None:
        found = self.tokenizer.special_tokens.get("bos_token")
        return found if isinstance(found, str) else None

    def model(self) -> LanguageModel:
        if self._model is None:
            self._model = load(
                self.checkpoint, compute=self._compute, tokenizer=self.tokenizer, progress=self._progress
            )
        return self._model

    def release(self) -> None:
        self._model = None

    def key(self, *parts: str) -> str:
        """Names in the cache what this model says about ``parts``: everything that decides it is hashed in."""
        whole = "\n".join(
            [str(STORAGE_VERSION), __version__, kernels.isa(), self.facts.content_hash, self._compute, *parts]
        )
        return hashlib.sha256(whole.encode()).hexdigest()


def _describe_compute(spec: ModelSpec, weights: Weights, compute: ModelCompute) -> str:
    """What the blocks' layers compute in; where they differ, how many in each."""
    base = base_compute(spec, weights, compute)
    counts = Counter(linear_compute(linear, weights, compute, base) for linear in spec.linears)
    if len(counts) == 1:
        return str(next(iter(counts)))
    return ", ".join(f"{name} ({count} layers)" for name, count in counts.items())
