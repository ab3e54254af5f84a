"""Answers as text: what the engine's token ids become, piece by piece, and the loop that reads many of them.

Stop strings are watched here, since the engine knows ids only: an answer that meets one is aborted there.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from flyweight.engine.engine import Engine
from flyweight.engine.request import Event, Request, RequestRecord
from flyweight.engine.sampling import TokenLogProbability
from flyweight.engine.scheduler import StepBudget
from flyweight.engine.stop_strings import StopStrings
from flyweight.errors import UsageError
from flyweight.tokenizer import Detokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Token counts. ``completion_tokens`` includes the end-of-text token and those of a stop string; ``cached_tokens``
    are tokens of the prompt whose keys and values an earlier request had computed; ``draft_tokens`` were guessed ahead
    and verified, and ``accepted_tokens`` of them were right."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Seconds spent in the steps that an answer took part in.

    ``prefill_seconds`` until its first token was chosen, ``decode_seconds`` for all that followed. In a batch the
    steps are shared with other answers.
    """

    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A finished answer.

    ``text`` is without special tokens and without the stop string unless the options ask for them; ``token_ids`` are
    all chosen tokens, and ``log_probabilities`` belong to them where they were asked for.
    ``finish_reason`` is ``stop`` after an end-of-text token or a stop string (then named in ``stop_string``), and
    ``length`` when max_tokens or the context ended it.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_string: str | None
    usage: Usage
    timings: Timings
    log_probabilities: tuple[TokenLogProbability, ...] = ()

    @property
    def prefill_tokens_per_second(self) -> float:
        """Tokens of the prompt that were computed, by the time they took."""
        return (self.usage.prompt_tokens - self.usage.cached_tokens) / max(self.timings.prefill_seconds, 1e-9)

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first, by the time they took; 0 when there were none."""
        return (self.usage.completion_tokens - 1) / max(self.timings.decode_seconds, 1e-9)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextPiece:
    """What one token brought: ``text`` may be empty. The last piece carries the whole ``completion``."""

    text: str
    token_id: int
    completion: Completion | None = None


class Answer:
    """The text of one answer in the making.

    Args:
        stop: strings that end it.
        detokenizer: decodes what follows the prompt; None where only ids are wanted.
        includes_stop: show the stop string, or the text of the stop token, that ended it.

    Raises:
        UsageError: when there are stop strings and no detokenizer.
    """

    def __init__(self, stop: Sequence[str], detokenizer: Detokenizer | None, *, includes_stop: bool = False) -> None:
        if detokenizer is None and stop:
            raise UsageError("stop strings need a tokenizer; this model has none")
        self._detokenizer = detokenizer
        self._stop_strings = StopStrings(stop, includes=includes_stop)
        self._includes_stop = includes_stop
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._log_probabilities: list[TokenLogProbability] = []
        self._reason: FinishReason | None = None

    @property
    def is_finished(self) -> bool:
        return self._reason is not None

    def read(self, event: Event) -> list[tuple[str, int]]:
        """The pieces (text, token) that an event brings, none behind a stop string."""
        pieces = []
        self._log_probabilities += event.log_probabilities
        for place, token in enumerate(event.token_ids, 1):
            is_last = place == len(event.token_ids)
            is_end = is_last and event.reason == "stop" and not event.is_complete and not self._includes_stop
            text = "" if is_end or self._detokenizer is None else self._stop_strings.push(self._detokenizer.push(token))
            if self._stop_strings.matched is not None:
                self._reason = "stop"
            elif is_last and event.reason is not None:
                self._reason = "stop" if event.reason == "stop" else "length"
                text += self._last_text()
            self._text.append(text)
            self._token_ids.append(token)
            pieces.append((text, token))
            if self.is_finished:
                break
        return pieces

    def complete(self, record: RequestRecord) -> Completion:
        """The finished answer; ``record`` is what the engine says of it."""
        assert self._reason is not None
        return Completion(
            text="".join(self._text),
            token_ids=tuple(self._token_ids),
            finish_reason=self._reason,
            stop_string=self._stop_strings.matched,
            usage=Usage(
                prompt_tokens=record.prompt_tokens,
                completion_tokens=len(self._token_ids),
                cached_tokens=record.cached_tokens,
                draft_tokens=record.draft_tokens,
                accepted_tokens=record.accepted_tokens,
            ),
            timings=Timings(prefill_seconds=record.prefill_seconds, decode_seconds=record.decode_seconds),
            log_probabilities=tuple(self._log_probabilities[: len(self._token_ids)]),
        )

    def _last_text(self) -> str:
        """What was held back, unless it completes a stop string."""
        if self._detokenizer is None:
            return ""
        text = self._stop_strings.push(self._detokenizer.finish()) + self._stop_strings.finish()
        if self._stop_strings.matched is not None:
            self._reason = "stop"
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request and the answers that are wanted to it: one, or several samples."""

    request: Request
    answers: Sequence[Answer]


class Reader:
    """Runs answers on one engine. Several may be read in turns: whoever reads makes the engine step for all."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._inboxes: dict[int, deque[Event]] = {}  # of each request; those asked together share one

    def run(self, asked: Sequence[Asked], budget: StepBudget | None = None) -> Iterator[tuple[int, TextPiece]]:
        """Yields (place of the answer among all that are asked, its next piece) as they come.

        Requests that have not ended are aborted when the iterator is closed.

        Raises:
            UsageError, ResourceError: when a request cannot be taken; then none is.
            FlyweightError: when the engine gave one up.
        """
        inbox: deque[Event] = deque()
        open_answers: dict[int, tuple[int, Answer]] = {}
        place = 0
        try:
            for one in asked:
                names = self.engine.add_samples(one.request, len(one.answers))
                for name, answer in zip(names, one.answers, strict=True):
                    open_answers[name] = (place, answer)
                    self._inboxes[name] = inbox
                    place += 1
            while open_answers:
                while not inbox:
                    self._step(budget)
                event = inbox.popleft()
                if event.id in open_answers:  # else a stop string has ended it before
                    yield from self._read(event, open_answers)
        finally:
            for name in open_answers:
                self.engine.abort(name)
                del self._inboxes[name]

    def _read(self, event: Event, open_answers: dict[int, tuple[int, Answer]]) -> Iterator[tuple[int, TextPiece]]:
        if event.error is not None:
            raise event.error
        place, answer = open_answers[event.id]
        pieces = answer.read(event)
        completion = None
        if answer.is_finished:
            record = event.record if event.record is not None else self.engine.abort(event.id)
            assert record is not None
            completion = answer.complete(record)
            del open_answers[event.id], self._inboxes[event.id]
        for number, (text, token) in enumerate(pieces, 1):
            is_last = number == len(pieces)
            yield place, TextPiece(text=text, token_id=token, completion=completion if is_last else None)

    def _step(self, budget: StepBudget | None) -> None:
        for event in self.engine.step(budget):
            if event.id not in self._inboxes:
                raise UsageError(
                    f"the engine brought news of request {event.id}, which was not asked here; do not use a model's "
                    "generate or stream while others add requests to its engine"
                )
            self._inboxes[event.id].append(event)
