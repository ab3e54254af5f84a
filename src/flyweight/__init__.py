"""Flyweight makes an LLM checkpoint smaller, proves that it still answers as well, and runs it on a CPU."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flyweight.version import __version__

if TYPE_CHECKING:
    from flyweight.compression import CompressionReport, CompressOptions, Recipe
    from flyweight.compression.compress import compress
    from flyweight.engine.generation import Completion, TextPiece
    from flyweight.engine.language_model import LanguageModel
    from flyweight.engine.load import load
    from flyweight.engine.offline import BatchOptions, BatchReport, batch
    from flyweight.engine.sampling import SamplingOptions
    from flyweight.errors import (
        CheckpointError,
        DataError,
        FlyweightError,
        KernelError,
        RecipeError,
        ResourceError,
        UnsupportedModelError,
        UsageError,
    )
    from flyweight.evaluation.options import EvaluateOptions
    from flyweight.evaluation.report import EvaluationReport
    from flyweight.evaluation.run import evaluate
    from flyweight.progress import Bar, Progress, Silent

# Where each name lives; it is imported when it is first used (PEP 562). The whole package takes most of a second to
# import, and ``flyweight generate`` needs a third of it before its first token.
_HOMES = {
    "Bar": "flyweight.progress",
    "BatchOptions": "flyweight.engine.offline",
    "BatchReport": "flyweight.engine.offline",
    "CheckpointError": "flyweight.errors",
    "Completion": "flyweight.engine.generation",
    "CompressOptions": "flyweight.compression",
    "CompressionReport": "flyweight.compression",
    "DataError": "flyweight.errors",
    "EvaluateOptions": "flyweight.evaluation.options",
    "EvaluationReport": "flyweight.evaluation.report",
    "FlyweightError": "flyweight.errors",
    "KernelError": "flyweight.errors",
    "LanguageModel": "flyweight.engine.language_model",
    "Progress": "flyweight.progress",
    "Recipe": "flyweight.compression",
    "RecipeError": "flyweight.errors",
    "ResourceError": "flyweight.errors",
    "SamplingOptions": "flyweight.engine.sampling",
    "Silent": "flyweight.progress",
    "TextPiece": "flyweight.engine.generation",
    "UnsupportedModelError": "flyweight.errors",
    "UsageError": "flyweight.errors",
    "batch": "flyweight.engine.offline",
    "compress": "flyweight.compression.compress",
    "evaluate": "flyweight.evaluation.run",
    "load": "flyweight.engine.load",
}

__all__ = [
    "Bar",
    "BatchOptions",
    "BatchReport",
    "CheckpointError",
    "Completion",
    "CompressOptions",
    "CompressionReport",
    "DataError",
    "EvaluateOptions",
    "EvaluationReport",
    "FlyweightError",
    "KernelError",
    "LanguageModel",
    "Progress",
    "Recipe",
    "RecipeError",
    "ResourceError",
    "SamplingOptions",
    "Silent",
    "TextPiece",
    "UnsupportedModelError",
    "UsageError",
    "__version__",
    "batch",
    "compress",
    "evaluate",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return ["__version__", *_HOMES]
