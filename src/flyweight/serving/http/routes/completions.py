"""/v1/completions: texts continued, and scored: with ``echo`` and ``logprobs`` it tells how likely a text is, which is
what evaluation harnesses ask."""

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from flyweight.engine.log_probabilities import prompt_log_probabilities, text_log_probabilities
from flyweight.engine.sampling import TokenLogProbability
from flyweight.serving.answers import AnswerPiece, Answers
from flyweight.serving.asks import Ask
from flyweight.serving.http.bodies import read_body
from flyweight.serving.http.operations import Operation
from flyweight.serving.http.routes.generation import UsageCount, closed_by_done, new_id, now, send_reply, stop_reason
from flyweight.serving.http.sse import event
from flyweight.serving.http.state import owner_of, request_id_of, state_of
from flyweight.serving.http.waiting import unless_left
from flyweight.serving.protocol.completions import CompletionBody
from flyweight.serving.protocol.schemas import TEXT_COMPLETION, schema_of
from flyweight.serving.protocol.structure import read_constraint
from flyweight.serving.service import ModelService


async def completions(request: Request) -> ASGIApp:
    """Continue texts."""
    body, warnings = await read_body(request, CompletionBody)
    state = state_of(request)
    service = state.service(body.model)
    body.check()
    ask = Ask(
        request_id=request_id_of(request),
        owner=owner_of(request),
        prompts=body.prompts(),
        options=body.sampling_options(max_tokens=body.max_tokens, logprobs=body.logprobs),
        max_tokens=body.max_tokens,
        samples=body.n or 1,
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
        prompt_logprobs=body.scored,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        streams=bool(body.stream),
        constraint=read_constraint(None, body.structured_outputs),
    )
    answers = await unless_left(request, service.answer(ask))
    reply = CompletionReply(service, body, answers, hides_cached=state.options.hide_cached_tokens, warnings=warnings)
    return await send_reply(request, answers, reply, streams=body.stream)


class CompletionReply:
    """Writes the answers to one request as OpenAI's API has them."""

    def __init__(
        self,
        service: ModelService,
        body: CompletionBody,
        answers: Answers,
        *,
        hides_cached: bool,
        warnings: list[str],
    ) -> None:
        self._service = service
        self._body = body
        self._answers = answers
        self._usage = UsageCount(answers, hides_cached=hides_cached)
        self._warnings = warnings
        self._offsets = [0] * answers.count  # characters of each choice's tokens so far
        self._scores: dict[int, tuple[TokenLogProbability, ...]] = {}  # of each prompt
        self._head: dict[str, Any] = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": now(),
            "model": service.name,
        }

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        pieces = await self._answers.all()
        for piece in pieces:
            self._usage.add(piece)
        found = {
            **self._head,
            "choices": [self._choice(piece, echoes=True) for piece in pieces],
            "usage": self._usage.to_dict(),
        }
        return {**found, "warnings": self._warnings} if self._warnings else found

    def events(self) -> AsyncGenerator[bytes, None]:
        """The events of a stream; what is echoed comes with a choice's first."""
        return closed_by_done(self._chunks())

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        options = self._body.stream_options
        counts_all = options is not None and bool(options.continuous_usage_stats)
        head = {**self._head, "warnings": self._warnings} if self._warnings else self._head
        begun: set[int] = set()
        async for piece in self._answers:
            self._usage.add(piece)
            chunk = {**head, "choices": [self._choice(piece, echoes=piece.index not in begun)]}
            begun.add(piece.index)
            if counts_all:
                chunk["usage"] = self._usage.to_dict()
            yield event(chunk)
            head = self._head
        if options is not None and options.include_usage:
            yield event({**self._head, "choices": [], "usage": self._usage.to_dict()})

    def _choice(self, piece: AnswerPiece, *, echoes: bool) -> dict[str, Any]:
        echoed = bool(self._body.echo) and echoes
        completion = piece.completion
        choice: dict[str, Any] = {
            "index": piece.index,
            "text": (self._echo(piece.index) if echoed else "") + piece.text,
            "logprobs": self._log_probabilities(piece, echoed=echoed),
            "finish_reason": None if completion is None else completion.finish_reason,
            "stop_reason": None if completion is None else stop_reason(completion, self._service.model.stop_ids),
        }
        if self._body.prompt_logprobs is not None:
            choice["prompt_logprobs"] = prompt_log_probabilities(
                self._prompt_scores(piece), self._service.tokens.label, listed=self._body.prompt_logprobs
            )
        if self._body.return_token_ids:
            choice["token_ids"] = piece.token_ids
            choice["prompt_token_ids"] = self._answers.prompts[piece.index // self._answers.samples]
        return choice

    def _echo(self, index: int) -> str:
        place = index // self._answers.samples
        text = self._answers.prompt_texts[place]
        return text if text is not None else self._service.tokens.of(self._answers.prompts[place])

    def _prompt_scores(self, piece: AnswerPiece) -> tuple[TokenLogProbability, ...]:
        """The first answer to a prompt brings its scores; they are the same for all."""
        return self._scores.setdefault(piece.index // self._answers.samples, piece.prompt_log_probabilities)

    def _log_probabilities(self, piece: AnswerPiece, *, echoed: bool) -> dict[str, Any] | None:
        if self._body.logprobs is None:
            return None
        found: list[TokenLogProbability | int] = list(piece.log_probabilities)
        if echoed:
            found = [
                self._answers.prompts[piece.index // self._answers.samples][0],
                *self._prompt_scores(piece),
                *found,
            ]
        written = text_log_probabilities(
            found, self._service.tokens.label, offset=self._offsets[piece.index], listed=self._body.logprobs
        )
        self._offsets[piece.index] += sum(map(len, written["tokens"]))
        return written


OPERATIONS = [
    Operation(
        method="POST",
        path="/v1/completions",
        handler=completions,
        summary="Texts continued, or scored",
        body=schema_of(CompletionBody),
        answer=TEXT_COMPLETION,
        streams=True,
        statuses=(404, 503),
    ),
]
