"""A file of requests answered at full throughput: many at once, resumable, results in the order of the input.

Lines are put before the engine as it has room for them. What a line asks is understood by ``batch_format``, what is
finished is kept by ``batch_files``; here is only the run.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flyweight.engine.batch_files import BatchRecord, InputLine, hash_of, read_lines
from flyweight.engine.batch_format import BatchRequest, LineError, answer_line, error_line, parse_line
from flyweight.engine.generation import Answer, Asked, Completion
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.load import load
from flyweight.engine.preparing import WeightOptions
from flyweight.engine.prompts import Prompt, tokens_kept
from flyweight.engine.request import Event
from flyweight.engine.sampling import TokenLogProbability
from flyweight.engine.speculation.choice import SpeculationChoice
from flyweight.engine.token_text import TokenText
from flyweight.errors import FlyweightError, UsageError
from flyweight.kernels import KVDtype
from flyweight.progress import Progress, Silent
from flyweight.runtime.prepared import ModelCompute
from flyweight.version import __version__


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchOptions:
    """How a batch is run.

    Raises:
        UsageError: when a value is outside its range.
    """

    max_tokens: int = 256
    """1 or more: tokens of an answer at most, for lines that do not say."""

    longest_line: int = 4 << 20
    """1024 or more: bytes of an input line at most; longer ones are reported as errors."""

    def __post_init__(self) -> None:
        for name, least in (("max_tokens", 1), ("longest_line", 1024)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)} is not allowed; choose {least} or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchReport:
    """What became of a batch.

    Attributes:
        lines: of the input, blank ones left out.
        failed: lines whose result is an error.
        resumed: lines that an earlier run had finished.
        prompt_tokens, completion_tokens, seconds: of this run.
    """

    lines: int
    failed: int
    resumed: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


def batch(
    source: str | Path,
    output: str | Path,
    *,
    model: str | Path,
    options: BatchOptions | None = None,
    compute: ModelCompute = "auto",
    cache_tokens: int | None = None,
    kv_dtype: KVDtype = "float32",
    speculate: str = "off",
    weights: WeightOptions | None = None,
    progress: Progress | None = None,
) -> BatchReport:
    """Answer a file of requests in the OpenAI batch format; see docs/batch.md.

    Args:
        source: JSONL, one request to /v1/chat/completions or /v1/completions a line.
        output: where the results go, in the order of the input. Until all are there they are in ``output.partial``,
            and the same call goes on from it.
        model, compute, cache_tokens, kv_dtype, speculate, weights: as for ``load``.

    Raises:
        UsageError: when a file cannot be used; a line at fault is reported in its result instead.
    """
    SpeculationChoice.parse(speculate)

    def open_model() -> LanguageModel:
        return load(
            str(model),
            compute=compute,
            cache_tokens=cache_tokens,
            kv_dtype=kv_dtype,
            speculate=speculate,
            weights=weights,
            progress=progress,
        )

    return run_batch(Path(source), Path(output), open_model, model_name=str(model), options=options, progress=progress)


def run_batch(
    source: Path,
    output: Path,
    open_model: Callable[[], LanguageModel],
    *,
    model_name: str,
    options: BatchOptions | None = None,
    progress: Progress | None = None,
) -> BatchReport:
    """Answer every line of ``source`` and write the results to ``output``.

    Args:
        open_model: loads the model; called once, when a line is left that needs it.
        model_name: where the model comes from: a rerun must name the same.

    Raises:
        UsageError: when ``source`` cannot be read, ``output`` exists, or ``output.partial`` is of another batch.
    """
    options = options if options is not None else BatchOptions()
    progress = progress if progress is not None else Silent()
    if not source.is_file():
        raise UsageError(f"the batch file {source} does not exist")
    began = time.perf_counter()
    job = {"input_sha256": hash_of(source), "model": model_name, "flyweight": __version__, **asdict(options)}
    with BatchRecord(output, job) as record:
        resumed = len(record.finished)
        lines, faults = _find_faults(source, options)
        left = frozenset(lines) - faults.keys() - record.finished
        run = _Run(open_model(), record, progress) if left else None
        progress.start("requests", len(lines), done=len(lines) - len(left))
        for number in faults.keys() - record.finished:
            record.add(number, error_line(number, faults[number]))
        if run is not None:
            run.answer(_requests(source, options, left))
        progress.finish()
        failed = record.num_failed
        record.finish()
    return BatchReport(
        lines=len(lines),
        failed=failed,
        resumed=resumed,
        prompt_tokens=run.prompt_tokens if run is not None else 0,
        completion_tokens=run.completion_tokens if run is not None else 0,
        seconds=time.perf_counter() - began,
    )


def _find_faults(source: Path, options: BatchOptions) -> tuple[list[int], dict[int, LineError]]:
    """Numbers of all lines, and what is wrong with those that cannot be understood: before anything is loaded."""
    numbers: list[int] = []
    faults: dict[int, LineError] = {}
    first_use: dict[str, int] = {}
    for line in read_lines(source, options.longest_line):
        numbers.append(line.number)
        try:
            request = _understand(line, options)
            earlier = first_use.setdefault(request.custom_id, line.number)
            if earlier != line.number:
                raise LineError(
                    f"custom_id {request.custom_id!r} was used before, in line {earlier}; give each its own",
                    param="custom_id",
                    custom_id=request.custom_id,
                )
        except LineError as error:
            faults[line.number] = error
    return numbers, faults


def _understand(line: InputLine, options: BatchOptions) -> BatchRequest:
    if line.text is None:
        raise LineError(f"the line has {line.size} bytes and at most {options.longest_line} are read")
    try:
        text = line.text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LineError(f"the line is not UTF-8 (byte {error.start})") from error
    return parse_line(text, max_tokens=options.max_tokens)


def _requests(source: Path, options: BatchOptions, wanted: frozenset[int]) -> Iterator[tuple[int, BatchRequest]]:
    for line in read_lines(source, options.longest_line):
        if line.number in wanted:
            yield line.number, _understand(line, options)


@dataclass(kw_only=True, slots=True)
class _OpenLine:
    """A line whose answers are in the making; ``open`` are engine requests and the places of their answers."""

    number: int
    request: BatchRequest
    answers: list[Answer]
    open: dict[int, int] = field(default_factory=dict)
    completions: dict[int, Completion] = field(default_factory=dict)
    prompt_scores: dict[int, tuple[TokenLogProbability, ...]] = field(default_factory=dict)


class _Run:
    """The lines that are before the engine."""

    def __init__(self, model: LanguageModel, record: BatchRecord, progress: Progress) -> None:
        self._model = model
        self._tokens = TokenText(model)
        self._engine = model.engine
        self._record = record
        self._progress = progress
        self._lines: dict[int, _OpenLine] = {}  # by engine request
        self._created = int(time.time())
        self.prompt_tokens = self.completion_tokens = 0

    def answer(self, requests: Iterator[tuple[int, BatchRequest]]) -> None:
        """Run all lines to their ends."""
        # Some must wait, so that the next to begin can be chosen with those that share its prefix.
        most = 2 * self._engine.budget.sequences
        try:
            while True:
                while len(self._lines) < most and (line := next(requests, None)) is not None:
                    self._put(*line)
                if not self._lines:
                    return
                for event in self._engine.step():
                    if event.id in self._lines:  # else its line has failed or a stop string has ended it
                        self._read(event)
        finally:
            for name in self._lines:
                self._engine.abort(name)

    def _put(self, number: int, request: BatchRequest) -> None:
        try:
            asked = [self._ask(prompt, request) for prompt in request.prompts]
            line = _OpenLine(number=number, request=request, answers=[])
            for one in asked:
                self._add(line, one)
        except UsageError as error:
            self._fail(number, request.custom_id, error)

    def _ask(self, prompt: Prompt, request: BatchRequest) -> Asked:
        ids = self._model.encode(prompt)
        kept = tokens_kept(
            request.truncate_prompt_tokens,
            context_length=self._model.context_length,
            max_tokens=request.options.max_tokens,
        )
        asked = self._model.ask(
            ids if kept is None else ids[-kept:],
            request.options,
            constraint=request.constraint,
            samples=request.num_answers,
        )
        return replace(asked, request=replace(asked.request, prompt_logprobs=request.prompt_logprobs))

    def _add(self, line: _OpenLine, asked: Asked) -> None:
        try:
            names = self._engine.add_samples(asked.request, len(asked.answers))
        except UsageError:
            self._drop(line)
            raise
        for name, answer in zip(names, asked.answers, strict=True):
            line.open[name] = len(line.answers)
            line.answers.append(answer)
            self._lines[name] = line

    def _read(self, event: Event) -> None:
        line = self._lines[event.id]
        if event.error is not None:
            self._drop(line)
            self._fail(line.number, line.request.custom_id, event.error)
            return
        place = line.open[event.id]
        answer = line.answers[place]
        answer.read(event)
        if event.prompt_log_probabilities:  # come once, with the first news of a prompt's first answer
            line.prompt_scores[place // line.request.num_answers] = event.prompt_log_probabilities
        if not answer.is_finished:
            return
        result = event.record if event.record is not None else self._engine.abort(event.id)
        assert result is not None
        line.completions[place] = answer.complete(result)
        del line.open[event.id], self._lines[event.id]
        if not line.open:
            self._finish(line)

    def _finish(self, line: _OpenLine) -> None:
        completions = [line.completions[place] for place in range(len(line.answers))]
        result = answer_line(
            line.number,
            line.request,
            completions,
            created=self._created,
            token=self._tokens.label,
            prompt_scores=[line.prompt_scores.get(place, ()) for place in range(len(line.request.prompts))],
        )
        self.prompt_tokens += result["response"]["body"]["usage"]["prompt_tokens"]
        self.completion_tokens += result["response"]["body"]["usage"]["completion_tokens"]
        self._keep(line.number, result)

    def _fail(self, number: int, custom_id: str, error: FlyweightError) -> None:
        self._keep(number, error_line(number, LineError(str(error), custom_id=custom_id)))

    def _keep(self, number: int, result: Mapping[str, Any]) -> None:
        self._record.add(number, result)
        self._progress.advance()

    def _drop(self, line: _OpenLine) -> None:
        for name in line.open:
            self._engine.abort(name)
            del self._lines[name]
        line.open.clear()
