"""What /v1/models says of a model: sizes, how it is stored, and the quality figures that travel with its checkpoint.

Figures come from ``report.json``, which ``flyweight compress`` writes, and from ``evaluation.json``, the output of
``flyweight evaluate --json`` if somebody has put it beside the weights. Only named fields are passed on: reports hold
paths of the machine they were made on. A report that cannot be read is logged and left out.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.engine.language_model import LanguageModel

LARGEST_REPORT = 32 << 20
COMPRESSION_FIELDS = ("recipe", "bits_per_weight", "original_bytes", "compressed_bytes", "compute", "calibration")

log = logging.getLogger("flyweight")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """One model as clients see it.

    Attributes:
        id: the served name.
        architecture: such as ``LlamaForCausalLM``.
        max_model_len: tokens that a prompt and its answer may have together.
        quantization: the method that config.json names, or None for a model stored plainly.
        running: which kernels, formats and compute types are in use.
        compression, quality: figures of the reports beside the checkpoint; None where there are none.
    """

    id: str
    created: int
    architecture: str
    max_model_len: int
    vocab_size: int
    quantization: str | None
    running: tuple[str, ...]
    has_chat_template: bool
    compression: Mapping[str, Any] | None
    quality: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """The object of /v1/models."""
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": "flyweight",
            "root": self.id,
            "parent": None,
            "max_model_len": self.max_model_len,
            "architecture": self.architecture,
            "vocab_size": self.vocab_size,
            "quantization": self.quantization,
            "running": list(self.running),
            "has_chat_template": self.has_chat_template,
            "compression": None if self.compression is None else dict(self.compression),
            "quality": None if self.quality is None else dict(self.quality),
        }


def read_card(model: LanguageModel, name: str) -> ModelCard:
    """The card of a loaded model."""
    folder = model.checkpoint.folder
    quantization = model.checkpoint.config.get("quantization_config")
    evaluation = _report(folder / "evaluation.json")
    compression = _report(folder / "report.json")
    return ModelCard(
        id=name,
        created=int(time.time()),
        architecture=model.spec.architecture,
        max_model_len=model.context_length,
        vocab_size=model.spec.vocab_size,
        quantization=str(quantization.get("quant_method")) if isinstance(quantization, Mapping) else None,
        running=tuple(line.split(", mapped from ")[0] for line in model.description),
        has_chat_template=model.has_chat_template,
        compression=None if compression is None else _chosen(compression, COMPRESSION_FIELDS),
        quality=None if evaluation is None else _quality(evaluation),
    )


def _report(path: Path) -> Mapping[str, Any] | None:
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_REPORT:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read (%s); the model card is without its figures", path, error)
        return None
    return found if isinstance(found, Mapping) else None


def _chosen(report: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: report[name] for name in names if name in report}


def _quality(report: Mapping[str, Any]) -> dict[str, Any]:
    """Perplexity, comparison with the original and golden prompts, as ``flyweight evaluate`` reports them."""
    text, golden, gate = (report.get(name) for name in ("text", "golden", "gate"))
    found: dict[str, Any] = {"passed": report.get("passed"), "date": report.get("date")}
    if isinstance(text, Mapping):
        found["text"] = {name: value for name, value in text.items() if _is_figure(value)}
        if isinstance(text.get("comparison"), Mapping):
            found["comparison"] = {name: value for name, value in text["comparison"].items() if _is_figure(value)}
    if isinstance(golden, Mapping) and isinstance(golden.get("tasks"), list):
        found["golden"] = {
            str(task.get("task")): task.get("exact_match") for task in golden["tasks"] if isinstance(task, Mapping)
        }
    if isinstance(gate, Mapping):
        found["gate_passed"] = gate.get("passed")
    return found


def _is_figure(value: object) -> bool:
    """A number, or an estimate with its interval."""
    if isinstance(value, Mapping):
        return all(isinstance(one, int | float | None) for one in value.values())
    return isinstance(value, int | float)
