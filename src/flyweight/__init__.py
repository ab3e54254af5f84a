"""Flyweight makes an LLM checkpoint smaller, proves that it still answers as well, and runs it on a CPU."""

from flyweight.compression import CompressionReport, CompressOptions, Recipe, compress
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
from flyweight.version import __version__

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
