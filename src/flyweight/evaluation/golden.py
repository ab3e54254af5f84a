"""Golden prompts: greedy answers compared with exact expected ones, and which answers flipped against the original.

A golden file is JSONL; each line is ``{"id": ..., "task": ..., "messages": [...], "expected": ..., "max_tokens": ...}``
with the messages up to the answer. An answer is right when it equals ``expected`` after both are stripped. A folder
stands for all its ``.jsonl`` files in the order of their names.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.engine.language_model import LanguageModel
from flyweight.engine.sampling import SamplingOptions
from flyweight.errors import DataError, nearest
from flyweight.evaluation.statistics import Figure, mcnemar, paired_difference, wilson
from flyweight.evaluation.text import numbered_lines, read_bytes
from flyweight.progress import Progress
from flyweight.tokenizer import Tokenizer

FIELDS = {"id": str, "task": str, "messages": list, "expected": str, "max_tokens": int}
NOTES = ("distance",)  # fields that say something about a prompt and decide nothing
ALL_TASKS = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenPrompt:
    """``messages`` are the conversation before the answer, each with ``role`` and ``content``."""

    id: str
    task: str
    messages: tuple[dict[str, Any], ...]
    expected: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenSet:
    """Prompts in order. ``sha256`` is over the files' lengths and bytes."""

    name: str
    sha256: str
    prompts: tuple[GoldenPrompt, ...]

    @property
    def tasks(self) -> list[str]:
        """Names under which results are reported: the tasks in order, then ``all`` where there are several."""
        names = list(dict.fromkeys(prompt.task for prompt in self.prompts))
        return names if len(names) == 1 else [*names, ALL_TASKS]


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenAnswer:
    """One candidate answer, as it was given; ``original`` where an original answered too."""

    id: str
    task: str
    expected: str
    answer: str
    is_right: bool
    original: str | None
    is_original_right: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """One task (or ``all`` together).

    ``broken`` prompts the original answered rightly and the candidate wrongly, ``repaired`` the other way;
    ``changed`` answers differ in text; ``p_value`` is McNemar's exact test on broken against repaired; ``change``
    is the paired difference of the two shares. All five are None without an original.
    """

    task: str
    exact_match: Figure
    original: Figure | None = None
    change: Figure | None = None
    broken: int | None = None
    repaired: int | None = None
    changed: int | None = None
    p_value: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenResult:
    name: str
    sha256: str
    tasks: tuple[TaskResult, ...]
    answers: tuple[GoldenAnswer, ...]


def read_golden(path: str | Path, *, max_per_task: int | None = None) -> GoldenSet:
    """Read golden prompts; with ``max_per_task`` so many of each task, spread evenly over its prompts: files are often
    sorted by difficulty, and their beginning would flatter.

    Raises:
        DataError: when there is no such file, none has a prompt, or a line lacks a field or has an unknown one.
    """
    source = Path(path)
    files = sorted(source.glob("*.jsonl")) if source.is_dir() else [source]
    digest = hashlib.sha256()
    kept: list[GoldenPrompt] = []
    seen: set[str] = set()
    for file in files:
        raw = read_bytes(file, "golden file")
        digest.update(f"{len(raw)}\n".encode() + raw)
        for number, line in numbered_lines(_decode(raw, file)):
            prompt = _read_prompt(line, f"golden file {file} line {number}")
            if prompt.id in seen:
                raise DataError(f"golden file {file} line {number} repeats the id {prompt.id!r}; ids must differ")
            seen.add(prompt.id)
            kept.append(prompt)
    if not kept:
        raise DataError(f"{source} holds no golden prompts; each line must be an object with {', '.join(FIELDS)}")
    if max_per_task is not None:
        kept = _spread(kept, max_per_task)
    return GoldenSet(name=source.name, sha256=digest.hexdigest(), prompts=tuple(kept))


def _spread(prompts: list[GoldenPrompt], max_per_task: int) -> list[GoldenPrompt]:
    """At most ``max_per_task`` prompts of each task, the middles of as many equal stretches, in the order given."""
    by_task: dict[str, list[GoldenPrompt]] = {}
    for prompt in prompts:
        by_task.setdefault(prompt.task, []).append(prompt)
    chosen: set[str] = set()
    for members in by_task.values():
        count = min(max_per_task, len(members))
        chosen |= {members[(2 * i + 1) * len(members) // (2 * count)].id for i in range(count)}
    return [prompt for prompt in prompts if prompt.id in chosen]


def _decode(raw: bytes, file: Path) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"golden file {file} is not UTF-8 (byte {error.start}); convert it first") from None


def _read_prompt(line: str, where: str) -> GoldenPrompt:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error.msg}") from None
    if not isinstance(entry, dict):
        raise DataError(f"{where} is not an object with {', '.join(FIELDS)}")
    for name in entry:
        if name not in FIELDS and name not in NOTES:
            known = (*FIELDS, *NOTES)
            raise DataError(f"{where} has an unknown field {name!r}; known: {', '.join(known)}{nearest(name, known)}")
    for name, kind in FIELDS.items():
        if not isinstance(entry.get(name), kind) or isinstance(entry[name], bool):
            raise DataError(f"{where} needs a field {name!r} of type {kind.__name__}")
    messages = entry["messages"]
    if not messages or not all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
        for message in messages
    ):
        raise DataError(f'{where} needs messages like [{{"role": "user", "content": "..."}}], at least one')
    if entry["max_tokens"] < 1:
        raise DataError(f"{where} has max_tokens={entry['max_tokens']}; give 1 or more")
    if entry["task"] == ALL_TASKS:
        raise DataError(f"{where} names its task {ALL_TASKS!r}, which the report keeps for all tasks together")
    return GoldenPrompt(
        id=entry["id"],
        task=entry["task"],
        messages=tuple(messages),
        expected=entry["expected"],
        max_tokens=entry["max_tokens"],
    )


def check_golden(golden: GoldenSet, tokenizer: Tokenizer, context_length: int) -> None:
    """See that every prompt can be asked, before any model runs.

    Raises:
        DataError: naming the first prompt that leaves no room for its answer.
        UsageError: when the model has no chat template or it refuses a conversation.
    """
    for prompt in golden.prompts:
        num_tokens = len(tokenizer.encode_chat(prompt.messages))
        if num_tokens >= context_length:
            raise DataError(
                f"golden prompt {prompt.id!r} has {num_tokens} tokens and the context holds {context_length}; "
                "shorten it or leave it out"
            )


def answer_golden(model: LanguageModel, golden: GoldenSet, progress: Progress) -> list[str]:
    """Greedy answers in the order of the prompts."""
    # Penalties that generation_config.json may ask for are switched off: they would not be greedy.
    options = [
        SamplingOptions(temperature=0.0, repetition_penalty=1.0, max_tokens=prompt.max_tokens)
        for prompt in golden.prompts
    ]
    prompts = [prompt.messages for prompt in golden.prompts]
    return [one.text for one in model.generate(prompts, options, progress=progress)]


def judge_golden(
    golden: GoldenSet, answers: Sequence[str], originals: Sequence[str] | None, *, confidence: float
) -> GoldenResult:
    """Compare answers (one per prompt, in order) with what was expected, and with the original's answers."""
    judged = tuple(
        GoldenAnswer(
            id=prompt.id,
            task=prompt.task,
            expected=prompt.expected,
            answer=answer,
            is_right=_is_right(answer, prompt),
            original=None if originals is None else originals[row],
            is_original_right=None if originals is None else _is_right(originals[row], prompt),
        )
        for row, (prompt, answer) in enumerate(zip(golden.prompts, answers, strict=True))
    )
    tasks = tuple(
        _judge_task(name, [one for one in judged if name in (one.task, ALL_TASKS)], confidence) for name in golden.tasks
    )
    return GoldenResult(name=golden.name, sha256=golden.sha256, tasks=tasks, answers=judged)


def _is_right(answer: str, prompt: GoldenPrompt) -> bool:
    return answer.strip() == prompt.expected.strip()


def _judge_task(name: str, answers: list[GoldenAnswer], confidence: float) -> TaskResult:
    count = len(answers)
    exact_match = wilson(sum(one.is_right for one in answers), count, confidence=confidence, sample="prompts")
    if answers[0].original is None:
        return TaskResult(task=name, exact_match=exact_match)
    broken = sum(bool(one.is_original_right) and not one.is_right for one in answers)
    repaired = sum(one.is_right and not one.is_original_right for one in answers)
    right = sum(bool(one.is_original_right) for one in answers)
    return TaskResult(
        task=name,
        exact_match=exact_match,
        original=wilson(right, count, confidence=confidence, sample="prompts"),
        change=paired_difference(broken, repaired, count, confidence=confidence),
        broken=broken,
        repaired=repaired,
        changed=sum(one.original is not None and one.answer.strip() != one.original.strip() for one in answers),
        p_value=mcnemar(broken, repaired),
    )
