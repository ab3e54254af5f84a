"""The demo: the packaged model compressed four ways, each measured against the original, timed and asked a question.

It uses the public functions of the rooms below, with sizes bounded so that all of it takes under a minute on two
cores. It prints nothing.
"""

import dataclasses
import json
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight import demo_model
from flyweight.compression.compress import compress
from flyweight.compression.options import CompressOptions
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.load import load
from flyweight.engine.sampling import SamplingOptions
from flyweight.errors import UsageError
from flyweight.evaluation.golden import GoldenPrompt, read_golden
from flyweight.evaluation.options import EvaluateOptions
from flyweight.evaluation.render import report_page
from flyweight.evaluation.report import EvaluationReport
from flyweight.evaluation.run import evaluate
from flyweight.progress import Progress, Silent
from flyweight.reporting import write_page

ORIGINAL = "original"
MARKER = ".flyweight-demo"
QUESTION_TASK = "tool_calls"


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSizes:
    """What is compressed and how much is measured; the defaults keep the demo under a minute on two cores."""

    recipes: tuple[str, ...] = ("int8", "int4", "gptq-int8", "gptq-int4")
    calibration_sequences: int = 16
    documents: int = 200
    prompts_per_task: int = 20
    speed_rounds: int = 5
    speed_tokens: int = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Decode speed of one stream in tokens per second: the median of several decodes, and their extremes."""

    median: float
    lowest: float
    highest: float
    num_decodes: int
    num_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoModel:
    """One compressed model: where it lies, how it was measured, how fast it decodes, what it answers."""

    name: str
    folder: Path
    compress_seconds: float
    report: EvaluationReport
    report_path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """``speeds`` and ``answers`` are by model name, the original's under ``original``."""

    original: Path
    models: tuple[DemoModel, ...]
    speeds: Mapping[str, Speed]
    question: GoldenPrompt
    answers: Mapping[str, str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "original": str(self.original),
            "seconds": self.seconds,
            "speeds": {name: dataclasses.asdict(speed) for name, speed in self.speeds.items()},
            "question": dataclasses.asdict(self.question),
            "answers": dict(self.answers),
            "models": [
                {
                    "name": one.name,
                    "folder": str(one.folder),
                    "compress_seconds": one.compress_seconds,
                    "report": one.report.to_dict(),
                }
                for one in self.models
            ],
        }


def run_demo(out: Path, *, sizes: DemoSizes | None = None, progress: Progress | None = None) -> Demo:
    """Compress, evaluate, time and ask; everything made lies in ``out``.

    A folder left by an earlier demo is replaced.

    Raises:
        UsageError: when ``out`` exists and is not of a demo.
    """
    started = time.monotonic()
    sizes = sizes if sizes is not None else DemoSizes()
    progress = progress if progress is not None else Silent()
    _clear(out)
    original = demo_model.model_path()
    models = tuple(_make(recipe, out, original, sizes, progress) for recipe in sizes.recipes)
    question = next(prompt for prompt in read_golden(demo_model.golden_path()).prompts if prompt.task == QUESTION_TASK)
    loaded = {ORIGINAL: load(original)} | {one.name: load(one.folder) for one in models}
    answers = {name: _ask(model, question) for name, model in loaded.items()}
    speeds = _time_decoding(loaded, question, sizes, progress)
    demo = Demo(
        original=original,
        models=models,
        speeds=speeds,
        question=question,
        answers=answers,
        seconds=time.monotonic() - started,
    )
    (out / "demo.json").write_text(json.dumps(demo.to_dict(), indent=2, allow_nan=False), encoding="utf-8")
    return demo


def _clear(out: Path) -> None:
    """An empty folder with our mark in it; only what an earlier demo made is deleted."""
    if out.is_dir() and (out / MARKER).is_file():
        shutil.rmtree(out)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and was not made by the demo; give another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("made by flyweight demo, which replaces this folder when it runs again\n")


def _make(recipe: str, out: Path, original: Path, sizes: DemoSizes, progress: Progress) -> DemoModel:
    folder, report_path = out / recipe, out / f"{recipe}.html"
    began = time.monotonic()
    calibration = demo_model.calibration_path() if recipe.startswith("gptq") else None
    compress(
        original,
        folder,
        recipe,
        CompressOptions(calibration=calibration, sequences=sizes.calibration_sequences),
        progress=progress,
    )
    compress_seconds = time.monotonic() - began
    report = evaluate(
        folder,
        against=original,
        options=EvaluateOptions(max_documents=sizes.documents, max_golden=sizes.prompts_per_task),
        progress=progress,
    )
    write_page(report_page(report), report_path)
    return DemoModel(
        name=recipe, folder=folder, compress_seconds=compress_seconds, report=report, report_path=report_path
    )


def _ask(model: LanguageModel, question: GoldenPrompt) -> str:
    options = SamplingOptions(temperature=0.0, max_tokens=question.max_tokens)
    return model.generate([question.messages], options)[0].text


def _time_decoding(
    models: Mapping[str, LanguageModel], question: GoldenPrompt, sizes: DemoSizes, progress: Progress
) -> dict[str, Speed]:
    """Models take turns, so that a busy moment of the machine meets all of them; the first round warms up."""
    options = SamplingOptions(temperature=0.0, max_tokens=sizes.speed_tokens, ignore_eos=True)
    found: dict[str, list[float]] = {name: [] for name in models}
    progress.start("decoding timed", sizes.speed_rounds + 1)
    for number in range(sizes.speed_rounds + 1):
        for name, model in models.items():
            (completion,) = model.generate([question.messages], options)
            if number:
                found[name].append(completion.decode_tokens_per_second)
        progress.advance()
    progress.finish()
    return {
        name: Speed(
            median=statistics.median(rates),
            lowest=min(rates),
            highest=max(rates),
            num_decodes=len(rates),
            num_tokens=sizes.speed_tokens,
        )
        for name, rates in found.items()
    }
