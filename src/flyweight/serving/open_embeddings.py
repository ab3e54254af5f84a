"""The texts of one model that shall become vectors: from their offer to the queue to the last vector of a request.

They come in as answers do, under the same bounds, and are counted and logged as those are. The engine's thread computes
them one at a time between its steps, so that streams go on beside them. All else belongs to the event loop.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from flyweight.engine.embedding import Embedder
from flyweight.engine.engine import Engine
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.request import RequestRecord
from flyweight.errors import FlyweightError, ResourceError
from flyweight.formats.base import Array
from flyweight.serving.admission import Ticket
from flyweight.serving.api_errors import CONTEXT_LENGTH, ApiError, internal_error
from flyweight.serving.asks import EmbeddingAsk
from flyweight.serving.engine_worker import EngineWorker
from flyweight.serving.entrance import Entrance, outcome_of
from flyweight.serving.observation import AnswerName, Finished, Observers, Outcome, Submitted, tell
from flyweight.serving.pooling import pooling_of
from flyweight.serving.prompts import refusal

log = logging.getLogger("flyweight")


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """The vectors of a request, each float32 (size,), and the tokens of its texts."""

    vectors: list[Array]
    tokens: int


@dataclass(kw_only=True, slots=True, eq=False)
class _Request:
    """What a client waits for: ``done`` is set when no text is left, or the first has failed."""

    id: str
    owner: str
    embedder: Embedder
    done: "asyncio.Future[None]"
    texts: "list[_Text]" = field(default_factory=list)


@dataclass(kw_only=True, slots=True, eq=False)
class _Text:
    """One of its texts. ``began`` is when the engine's thread turned to it, 0 before."""

    request: _Request
    place: int
    ids: list[int]
    ticket: Ticket
    began: float = 0.0
    vector: Array | None = None
    is_open: bool = True


def embedder_for(model: LanguageModel, ask: EmbeddingAsk, *, name: str) -> Embedder:
    """What makes the vectors that a request asks for.

    Raises:
        ApiError: 400 when the model was not made for it, or its vectors have another size.
    """
    pooling = pooling_of(model.checkpoint.folder, ask.pooling)
    if pooling is None:
        raise ApiError(
            400,
            f"the model {name!r} was made to continue texts and not to embed them; serve an embedding model, or start "
            "the server with --embeddings mean or last",
            code="no_embeddings",
        )
    embedder = Embedder(model, pooling)
    if ask.dimensions not in (None, embedder.size):
        raise ApiError(400, f"this model's vectors have {embedder.size} numbers", param="dimensions")
    return embedder


class OpenEmbeddings:
    """Those of one model, whose engine ``worker`` runs behind ``entrance``."""

    def __init__(
        self, worker: EngineWorker, entrance: Entrance, *, model: LanguageModel, name: str, observers: Observers
    ) -> None:
        self._worker = worker
        self._entrance = entrance
        self._model = model
        self._name = name
        self._observers = observers
        self._requests: set[_Request] = set()
        self._line: deque[_Text] = deque()  # released, and not yet the engine's
        self._computing: _Text | None = None

    def __len__(self) -> int:
        return len(self._requests)

    async def embed(self, ask: EmbeddingAsk, embedder: Embedder, texts: Sequence[list[int]]) -> Embedded:
        """The vectors of token ids; whoever stops waiting gives up those that are not computed.

        Raises:
            ApiError: 400 for a text of a length that is not possible, 429 or 503 when it cannot be taken now.
        """
        self._check_lengths(texts)
        request = _Request(
            id=ask.request_id,
            owner=ask.owner.name,
            embedder=embedder,
            done=asyncio.get_running_loop().create_future(),
        )
        request.texts = [
            _Text(
                request=request,
                place=place,
                ids=ids,
                ticket=Ticket(owner=request.owner, prompt_tokens=len(ids), max_tokens=0),
            )
            for place, ids in enumerate(texts)
        ]
        begin = {text.ticket: partial(self._begin, text) for text in request.texts}
        self._entrance.offer(request.id, request.owner, begin)
        self._requests.add(request)
        submitted = Submitted(
            request_id=request.id,
            model=self._name,
            owner=request.owner,
            prompt_tokens=tuple(map(len, texts)),
            samples=1,
            max_tokens=(),
            at=request.texts[0].ticket.queued_at,
            streams=False,
        )
        tell(self._observers, lambda one: one.on_submitted(submitted))
        self._entrance.release()
        try:
            await request.done
        finally:
            self._give_up(request, "abort")
        vectors = [text.vector for text in request.texts if text.vector is not None]
        return Embedded(vectors=vectors, tokens=sum(map(len, texts)))

    def end_late(self, now: float) -> None:
        """End what has waited or run for too long, and all when the engine is dead."""
        dead = None if self._worker.is_alive else ApiError(503, "the engine has ended", code="engine_ended")
        for request in list(self._requests):
            late = (self._entrance.lateness(text.ticket, now) for text in request.texts if text.is_open)
            error = dead or next((one for one in late if one is not None), None)
            if error is not None:
                self._fail(request, error)

    def end_all(self, error: ApiError) -> None:
        """End everything with this error."""
        for request in list(self._requests):
            self._fail(request, error)

    def _check_lengths(self, texts: Sequence[list[int]]) -> None:
        most = self._model.context_length
        for place, ids in enumerate(texts):
            if not 0 < len(ids) <= most:
                raise ApiError(
                    400,
                    f"a text has {len(ids)} tokens; this model takes 1 to {most}",
                    param=f"input[{place}]",
                    code=CONTEXT_LENGTH if ids else None,
                )

    # One text after another

    def _begin(self, text: _Text) -> None:
        """A text has left the queue."""
        self._line.append(text)
        if self._computing is None:
            self._compute_next()

    def _compute_next(self) -> None:
        self._computing = None
        while self._line:
            text = self._line.popleft()
            if text.is_open:
                self._computing = text
                made = asyncio.wrap_future(self._worker.run(partial(_vector, text)))
                made.add_done_callback(partial(self._receive, text))
                return

    def _receive(self, text: _Text, made: "asyncio.Future[Array]") -> None:
        self._compute_next()
        if made.cancelled() or not text.is_open:  # given up while it was computed
            return
        error = made.exception()
        if error is not None:
            self._fail(text.request, self._told(error, text.request))
            return
        text.vector = made.result()
        self._entrance.admission.begin(text.ticket, time.perf_counter())
        self._end(text, "stop")
        if not any(one.is_open for one in text.request.texts) and not text.request.done.done():
            text.request.done.set_result(None)
        self._entrance.release()

    def _told(self, error: BaseException, request: _Request) -> ApiError:
        if isinstance(error, ResourceError):
            return ApiError(
                503,
                "running requests leave no room in the cache",
                code="no_room",
                retry_after=self._entrance.admission.retry_after(),
            )
        if isinstance(error, FlyweightError):
            return refusal(error, self._model, "input")
        log.error("a text on %s failed", self._name, exc_info=error)
        return internal_error(request.id)

    # The end

    def _fail(self, request: _Request, error: ApiError) -> None:
        self._give_up(request, outcome_of(error), error.message)
        if not request.done.done():
            request.done.set_exception(error)

    def _give_up(self, request: _Request, outcome: Outcome, message: str = "") -> None:
        """End what is open of a request; nothing happens where all is computed."""
        for text in request.texts:
            if text.is_open:
                self._entrance.withdraw(text.ticket)
                self._end(text, outcome, message)
        self._requests.discard(request)
        self._entrance.release()

    def _end(self, text: _Text, outcome: Outcome, message: str = "") -> None:
        text.is_open = False
        ticket, now = text.ticket, time.perf_counter()
        if ticket.released_at:
            self._entrance.admission.end_answer(ticket)
        self._entrance.close(ticket, 0)
        finished = Finished(
            name=AnswerName(request_id=text.request.id, prompt=text.place, sample=0),
            model=self._name,
            owner=text.request.owner,
            outcome=outcome,
            queued_at=ticket.queued_at,
            released_at=ticket.released_at,
            ended_at=now,
            max_tokens=0,
            samples=1,
            record=_record(text, now) if text.vector is not None else None,
            message=message,
            is_embedding=True,
        )
        tell(self._observers, lambda one: one.on_finished(finished))


def _vector(text: _Text, _engine: Engine) -> Array:
    """Called in the engine's thread."""
    text.began = time.perf_counter()
    return text.request.embedder.embed(text.ids)


def _record(text: _Text, now: float) -> RequestRecord:
    """What there is to say of a text that was computed, in the form of an answer without tokens."""
    return RequestRecord(
        arrived=text.ticket.released_at,
        began=text.began,
        first_token=0.0,
        finished=now,
        prefill_seconds=now - text.began,
        decode_seconds=0.0,
        prompt_tokens=len(text.ids),
        answer_tokens=0,
        cached_tokens=0,
        preemptions=0,
        draft_tokens=0,
        accepted_tokens=0,
    )
