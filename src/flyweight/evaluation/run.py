"""The whole evaluation: open, cut the text, run the original once, run the candidate, make figures, judge.

The original is loaded only when the cache lacks something of it, and dropped before the candidate is loaded, so that
memory holds one model at a time; only where its predictions cannot be stored are both held.
"""

import dataclasses
import datetime as dt
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from flyweight import demo_model
from flyweight.checkpoint.cache import cache_folder
from flyweight.errors import DataError, UsageError, nearest
from flyweight.evaluation.distributions import RowStatistics
from flyweight.evaluation.figures import compare, kl_histogram, per_document, perplexities
from flyweight.evaluation.gate import Gate, read_gate
from flyweight.evaluation.golden import GoldenSet, answer_golden, check_golden, judge_golden, read_golden
from flyweight.evaluation.log_probabilities import PredictionCache, StoredPredictions
from flyweight.evaluation.options import EvaluateOptions
from flyweight.evaluation.protocol import ScoringPlan, plan_scoring
from flyweight.evaluation.report import EvaluationReport, TextResult
from flyweight.evaluation.scoring import (
    Divergence,
    compare_side_by_side,
    compare_with_stored,
    score_alone,
    store_predictions,
)
from flyweight.evaluation.statistics import Bootstrap, choose_units
from flyweight.evaluation.subject import Subject
from flyweight.evaluation.text import EvaluationText, read_text
from flyweight.machine import Machine
from flyweight.progress import Progress, Silent
from flyweight.reporting import parse_bytes
from flyweight.tokenizer import Tokenizer
from flyweight.version import __version__

LONGEST_DEFAULT_WINDOW = 2048


def evaluate(
    model: str | Path,
    *,
    against: str | Path | None = None,
    text: str | Path | None = None,
    golden: str | Path | None = None,
    options: EvaluateOptions | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Measure a model on text and golden prompts, alone or against the original it was made from.

    Args:
        model: folder or hub id of the model to judge.
        against: folder or hub id of the original.
        text: evaluation text (see ``evaluation.text.read_text``).
        golden: golden prompts, JSONL (see ``evaluation.golden``).
        options: everything else; by default :class:`EvaluateOptions` as it is.

    Text and golden prompts left out are those of the packaged demo model, where that is the model or the original.

    Raises:
        UsageError: (or its children) for a request that cannot be carried out, before any model runs.
    """
    started = time.monotonic()
    options = options if options is not None else EvaluateOptions()
    progress = progress if progress is not None else Silent()
    gate = None if options.gate is None else read_gate(options.gate)
    limit_bytes = parse_bytes(options.cache_limit)
    candidate = Subject.open(model, options.compute, progress)
    original = None if against is None else Subject.open(against, options.against_compute, progress)
    if text is None and golden is None:
        text, golden = _own_data(candidate, original)
    job = _Job(
        candidate=candidate,
        original=original,
        text=None if text is None else read_text(text, bos_text=candidate.bos_text),
        golden=None if golden is None else read_golden(golden, max_per_task=options.max_golden),
        options=options,
        cache=PredictionCache(cache_folder(), limit_bytes),
        progress=progress,
    )
    if gate is not None:
        _check_gate(gate, job)
    if job.golden is not None:
        check_golden(job.golden, candidate.tokenizer, candidate.spec.max_positions)
    report = job.run()
    if gate is not None:
        report = report.judged(gate)
    progress.finish()
    return dataclasses.replace(report, seconds=time.monotonic() - started)


def _own_data(candidate: Subject, original: Subject | None) -> tuple[Path, Path]:
    """The demo model's held-out text and golden prompts, where it takes part."""
    demo = demo_model.model_path().resolve()
    if any(one is not None and one.checkpoint.folder.resolve() == demo for one in (candidate, original)):
        return demo_model.heldout_path(), demo_model.golden_path()
    raise DataError("nothing to evaluate on; give a text (--text FILE), golden prompts (--golden FILE) or both")


def _check_gate(gate: Gate, job: "_Job") -> None:
    """Refuse a gate that asks for what will not be measured, before any model runs."""
    if gate.needs_original and (job.original is None or job.text is None):
        raise UsageError("the gate compares with an original on a text; give --against MODEL and --text FILE")
    if gate.min_golden and job.golden is None:
        raise UsageError("the gate sets min_golden; give golden prompts (--golden FILE)")
    tasks = [] if job.golden is None else job.golden.tasks
    for task in gate.min_golden:
        if task not in tasks:
            hint = nearest(task, tasks)
            raise UsageError(f"the gate sets min_golden for task {task!r}; tasks: {', '.join(tasks)}{hint}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    candidate: Subject
    original: Subject | None
    text: EvaluationText | None
    golden: GoldenSet | None
    options: EvaluateOptions
    cache: PredictionCache
    progress: Progress

    def run(self) -> EvaluationReport:
        plan = None if self.text is None else self._plan(self.text)
        stored, refusal = self._run_original(plan)
        originals = self._original_answers()
        if self.original is not None and refusal is None:
            self.original.release()
        text_result = None if plan is None else self._score(plan, stored, refusal)
        golden_result = None
        if self.golden is not None:
            answers = answer_golden(self.candidate.model(), self.golden, self.progress)
            golden_result = judge_golden(self.golden, answers, originals, confidence=self.options.confidence)
        return EvaluationReport(
            model=self.candidate.facts,
            against=None if self.original is None else self.original.facts,
            text=text_result,
            golden=golden_result,
            gate=None,
            options={name: _plain(value) for name, value in dataclasses.asdict(self.options).items()},
            flyweight_version=__version__,
            machine=Machine.detect().describe(),
            date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            seconds=0.0,
        )

    def _plan(self, text: EvaluationText) -> ScoringPlan:
        subjects = [one for one in (self.candidate, self.original) if one is not None]
        context = min(one.spec.max_positions for one in subjects)
        window = self.options.window
        if window is None:
            window = min(context, LONGEST_DEFAULT_WINDOW)
        elif window > context:
            raise UsageError(
                f"window={window} is longer than the context of {context} tokens; choose {context} or less"
            )
        plans = [self._plan_with(one.tokenizer, text, window) for one in subjects]
        if len({plan.protocol.tokens_sha256 for plan in plans}) > 1:
            raise UsageError(
                f"{self.candidate.facts.name} and the original cut the text into different tokens, so their "
                "predictions cannot be compared; give the original that the model was made from"
            )
        if len({one.spec.vocab_size for one in subjects}) > 1:
            raise UsageError(
                f"the vocabularies differ ({' and '.join(str(one.spec.vocab_size) for one in subjects)} tokens); "
                "give the original that the model was made from"
            )
        return plans[0]

    def _plan_with(self, tokenizer: Tokenizer, text: EvaluationText, window: int) -> ScoringPlan:
        return plan_scoring(
            text,
            lambda document: tokenizer.encode(document, add_special_tokens=False),
            kind=self.options.protocol,
            window=window,
            stride=self.options.stride,
            bos_rule=self.options.bos,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            max_documents=self.options.max_documents,
        )

    def _run_original(self, plan: ScoringPlan | None) -> tuple[StoredPredictions | None, str | None]:
        """The original's stored predictions, or why they cannot be stored; neither without an original and a text."""
        if self.original is None or plan is None:
            return None, None
        vocab_size = self.original.spec.vocab_size
        key = self.original.key("predictions", plan.protocol.tokens_sha256)
        stored = self.cache.find(key, plan.num_rows, vocab_size)
        if stored is not None:
            return stored, None
        refusal = self.cache.refusal(plan.num_rows, vocab_size)
        if refusal is not None:
            return None, refusal
        stored = store_predictions(
            self.original.model(),
            plan,
            vocab_size=vocab_size,
            key=key,
            cache=self.cache,
            chunk_tokens=self.options.chunk_tokens,
            progress=self.progress,
        )
        return stored, None

    def _original_answers(self) -> list[str] | None:
        if self.original is None or self.golden is None:
            return None
        ids = hashlib.sha256("\n".join(prompt.id for prompt in self.golden.prompts).encode()).hexdigest()
        key = self.original.key("answers", self.golden.sha256, ids)
        answers = self.cache.find_answers(key)
        if answers is None or len(answers) != len(self.golden.prompts):
            answers = answer_golden(self.original.model(), self.golden, self.progress)
            self.cache.write_answers(key, answers)
        return answers

    def _score(self, plan: ScoringPlan, stored: StoredPredictions | None, refusal: str | None) -> TextResult:
        chunk_tokens = self.options.chunk_tokens
        model = self.candidate.model()
        divergence: Divergence | None = None
        if stored is not None:
            statistics, divergence = compare_with_stored(
                model, stored, plan, chunk_tokens=chunk_tokens, progress=self.progress
            )
        elif self.original is not None and refusal is not None:
            statistics, divergence = compare_side_by_side(
                model,
                self.original.model(),
                plan,
                reason=refusal,
                chunk_tokens=chunk_tokens,
                progress=self.progress,
            )
        else:
            statistics = score_alone(model, plan, chunk_tokens=chunk_tokens, progress=self.progress)
        return _text_result(plan, statistics, divergence, self.options)


def _text_result(
    plan: ScoringPlan, statistics: RowStatistics, divergence: Divergence | None, options: EvaluateOptions
) -> TextResult:
    bootstrap = Bootstrap(
        choose_units(plan.documents, plan.sequences),
        num_resamples=options.resamples,
        seed=options.seed,
        confidence=options.confidence,
    )
    return TextResult(
        protocol=plan.protocol,
        perplexity=perplexities(statistics, plan, bootstrap),
        original=None if divergence is None else perplexities(divergence.original, plan, bootstrap),
        comparison=None if divergence is None else compare(statistics, divergence, bootstrap),
        documents=per_document(statistics, divergence, plan),
        kl_histogram=None if divergence is None else kl_histogram(divergence.kl),
    )


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
