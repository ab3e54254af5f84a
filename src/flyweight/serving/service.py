"""One model that is served: from a route's ask to answers, over the queue, the engine's thread and back.

All methods belong to the event loop. Rendering and tokenizing run on a pool of threads; the engine runs on its own.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from flyweight.engine.constraint import ConstraintFactory
from flyweight.engine.engine import Engine
from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.metrics import EngineMetrics
from flyweight.engine.token_text import TokenText
from flyweight.serving.answers import Answers
from flyweight.serving.api_errors import ApiError
from flyweight.serving.asks import Ask, EmbeddingAsk, Prompt
from flyweight.serving.engine_worker import EngineWorker
from flyweight.serving.entrance import Entrance, shutdown_error
from flyweight.serving.jobs import Delivery
from flyweight.serving.limits import ServerLimits
from flyweight.serving.model_card import ModelCard, read_card
from flyweight.serving.observation import GrammarCompiled, Observers, tell
from flyweight.serving.open_answers import OpenAnswers
from flyweight.serving.open_embeddings import Embedded, OpenEmbeddings, embedder_for
from flyweight.serving.prompts import compile_constraint, encode, prepare
from flyweight.serving.tools.registry import tool_format_for

T = TypeVar("T")

SWEEP_SECONDS = 0.25
DRAIN_SECONDS = 0.02  # between two looks at what is open
GRAMMAR_THREADS = 2

log = logging.getLogger("flyweight")


class ModelService:
    """Serves one model under one name.

    Args:
        pool: threads for templates and tokenizers, shared by all services.
        observers: are told of everything.

    Attributes:
        card: what /v1/models says.
        preparing: requests that are not in the queue yet; ``drain`` waits for them.
        tokens: as clients see them.
        tool_format: how the model calls functions; None where that is not known.
    """

    def __init__(
        self, model: LanguageModel, *, name: str, limits: ServerLimits, pool: Executor, observers: Observers = ()
    ) -> None:
        self.model = model
        self.name = name
        self.limits = limits
        self.card: ModelCard = read_card(model, name)
        template = model.tokenizer.chat_template if model.has_chat_template else None
        self.tool_format = None if template is None else tool_format_for(template)
        self.tokens = TokenText(model)
        self._pool = pool
        self._observers = observers
        self._loop = asyncio.get_running_loop()
        self._worker = EngineWorker(model, name=name, deliver=self._hand_over)
        self._entrance = Entrance(limits, model=name, max_sequences=self._worker.max_sequences, observers=observers)
        self._admission = self._entrance.admission
        self._answers = OpenAnswers(self._worker, self._entrance, model=model, name=name, observers=observers)
        self._embeddings = OpenEmbeddings(self._worker, self._entrance, model=model, name=name, observers=observers)
        # Grammars wait for one another, never texts for grammars.
        self._grammar_pool = ThreadPoolExecutor(GRAMMAR_THREADS, thread_name_prefix=f"grammars {name}")
        self.preparing = 0
        self._successor: ModelService | None = None
        self._is_draining = False
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work."""
        self._worker.start()
        self._sweeper = self._loop.create_task(self._sweep())

    # What routes use

    async def answer(self, ask: Ask) -> Answers:
        """Take a request; its answers are read from what is returned.

        Raises:
            ApiError: 400 when it cannot be carried out, 429 or 503 when it cannot be taken now; nothing was computed.
        """
        if self._successor is not None:
            return await self._successor.answer(ask)
        count = len(ask.prompts) * ask.samples
        if count > self.limits.answers:
            raise ApiError(
                400,
                f"{len(ask.prompts)} prompts with n={ask.samples} ask for {count} answers and {self.limits.answers} "
                "are allowed; ask for fewer at once",
                param="n" if ask.samples > 1 else "prompt",
            )
        if ask.max_tokens is not None and ask.max_tokens > self.limits.answer_tokens:
            raise ApiError(
                400,
                f"max_tokens={ask.max_tokens} is too large; this server allows {self.limits.answer_tokens}",
                param="max_tokens",
            )
        self._entrance.refuse_early(ask.request_id, ask.owner.name, preparing=self.preparing)
        self.preparing += 1
        try:
            constraint = None if ask.constraint is None else await self._compile(ask, ask.constraint)
            prepared = await self.compute(
                partial(
                    prepare,
                    self.model,
                    ask,
                    self.limits,
                    engine_priority=not ask.owner.name,
                    constraint=constraint,
                )
            )
        finally:
            self.preparing -= 1
        if self._successor is not None:  # it came while the prompt was made
            return await self._successor.answer(ask)
        return self._answers.submit(ask, prepared)

    async def _compile(self, ask: Ask, spec: ConstraintSpec) -> ConstraintFactory:
        """What makes the constraint of each answer; observers hear how long it took.

        Raises:
            ApiError: 400 when it cannot be kept.
        """
        began, is_refused = time.perf_counter(), False
        try:
            return await self._loop.run_in_executor(self._grammar_pool, compile_constraint, self.model, spec)
        except ApiError:
            is_refused = True
            raise
        finally:
            event = GrammarCompiled(
                request_id=ask.request_id,
                model=self.name,
                seconds=time.perf_counter() - began,
                is_refused=is_refused,
            )
            tell(self._observers, lambda one: one.on_compiled(event))

    async def embed(self, ask: EmbeddingAsk) -> Embedded:
        """The vectors of a request's texts.

        Raises:
            ApiError: 400 when it cannot be carried out, 429 or 503 when it cannot be taken now; nothing was computed.
        """
        if self._successor is not None:
            return await self._successor.embed(ask)
        if len(ask.prompts) > self.limits.answers:
            raise ApiError(
                400,
                f"{len(ask.prompts)} texts are too many at once; send at most {self.limits.answers}",
                param="input",
            )
        embedder = embedder_for(self.model, ask, name=self.name)
        self._entrance.refuse_early(ask.request_id, ask.owner.name, preparing=self.preparing)
        self.preparing += 1
        try:
            texts = [(await self.encode(prompt))[1] for prompt in ask.prompts]
        finally:
            self.preparing -= 1
        if self._successor is not None:  # it came while the texts were tokenized
            return await self._successor.embed(ask)
        return await self._embeddings.embed(ask, embedder, texts)

    async def encode(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        """A prompt's text, where it has one, and its token ids.

        Raises:
            ApiError: 400 where it cannot be read.
        """
        return await self.compute(partial(encode, self.model, prompt, most_characters=self.limits.tokenized_characters))

    async def compute(self, function: Callable[[], T]) -> T:
        """Run something that takes long, but does not use the engine, off the event loop."""
        return await self._loop.run_in_executor(self._pool, function)

    async def run(self, function: Callable[[Engine], T]) -> T:
        """Run something in the engine's thread between two steps."""
        return await asyncio.wrap_future(self._worker.run(function))

    # What operations use

    def illness(self) -> str | None:
        """Why the engine does not live, or None: it makes progress whenever there is work."""
        if not self._worker.is_alive:
            return self._worker.pulse.fault or "the engine does not run"
        return self._worker.pulse.illness(self.limits.stall_seconds)

    def unreadiness(self) -> str | None:
        """Why new requests should go elsewhere, or None."""
        if self._is_draining:
            return "the server is shutting down"
        if not self._admission.has_room:
            return "the queue is full"
        return self.illness()

    @property
    def is_draining(self) -> bool:
        """Whether it takes no more, and only ends what it has."""
        return self._is_draining

    @property
    def metrics(self) -> EngineMetrics:
        """The engine's counters after its last step."""
        return self._worker.metrics

    @property
    def queued(self) -> int:
        """Prompts in the queue before the engine."""
        return self._admission.queued

    @property
    def queued_by_owner(self) -> dict[str, int]:
        """Whose prompts wait in the queue, by the name of their key."""
        return self._admission.queued_by_owner

    @property
    def retry_after(self) -> float:
        """Seconds that a refused request would be told to wait now."""
        return self._admission.retry_after()

    @property
    def silent_seconds(self) -> float:
        """How long the engine has made no progress although it has work."""
        return self._worker.pulse.silent_seconds

    def retire(self, successor: "ModelService | None") -> None:
        """Lose the name: who still asks here is sent on to the successor, if there is one. What was begun goes on until
        ``drain`` and ``stop``."""
        self._successor = successor

    async def drain(self, seconds: float) -> bool:
        """Take no more, let what is open end, and after so many seconds end it. Whether all ended by themselves."""
        self._is_draining = True
        self._admission.close()
        try:
            async with asyncio.timeout(seconds):
                while len(self._answers) or len(self._embeddings) or self.preparing:
                    await asyncio.sleep(DRAIN_SECONDS)
        except TimeoutError:
            self._answers.end_all(shutdown_error())
            self._embeddings.end_all(shutdown_error())
            return False
        return True

    async def stop(self) -> None:
        """End the engine's thread. The service is of no use afterwards."""
        self._is_draining = True
        self._admission.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._grammar_pool.shutdown(wait=False, cancel_futures=True)
        await self._loop.run_in_executor(None, self._worker.stop, 10.0)

    def _hand_over(self, delivery: Delivery) -> None:
        """Called in the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._answers.receive, delivery)
        except RuntimeError:  # the loop is closed: nobody is left who could be told
            log.debug("news of %s came after the end", self.name)

    async def _sweep(self) -> None:
        """End what has waited or run for too long."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.perf_counter()
            self._answers.end_late(now)
            self._embeddings.end_late(now)
