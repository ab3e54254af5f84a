"""The answers to one request while they are made, as a route reads them.

News come from the engine as fast as it makes them and are merged until they are read: a slow reader holds nobody up,
and what waits for it is bounded by the length of the answers. All of it belongs to the event loop.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from flyweight.engine.generation import Completion
from flyweight.engine.sampling import TokenLogProbability
from flyweight.serving.api_errors import ApiError


@dataclass(kw_only=True, slots=True)
class AnswerPiece:
    """What is new of one answer since it was read last: any number of tokens, also none with text that was held back.

    Attributes:
        index: of the answer: prompt by prompt, sample by sample.
        text: of the new tokens.
        log_probabilities: of the new tokens, where they are wanted.
        prompt_log_probabilities: of the prompt, once, where they are wanted.
        completion: the whole answer, with the last piece.
    """

    index: int
    text: str
    token_ids: list[int]
    log_probabilities: list[TokenLogProbability]
    prompt_log_probabilities: tuple[TokenLogProbability, ...] = ()
    completion: Completion | None = None


class Answers:
    """An asynchronous iterator of pieces; it ends when all answers have.

    Attributes:
        request_id: of the request.
        prompts: the token ids of each prompt.
        prompt_texts: each prompt as text, where it was text or a conversation; else None.
        samples: answers to each prompt.
        max_tokens: of each prompt's answers.
    """

    def __init__(
        self,
        *,
        request_id: str,
        prompts: list[list[int]],
        prompt_texts: list[str | None],
        samples: int,
        give_up: Callable[[], None],
    ) -> None:
        self.request_id = request_id
        self.prompts = prompts
        self.prompt_texts = prompt_texts
        self.samples = samples
        self._give_up = give_up
        self._open = len(prompts) * samples
        self._pieces: dict[int, AnswerPiece] = {}
        self._error: ApiError | None = None
        self._changed = asyncio.Event()

    @property
    def count(self) -> int:
        """Answers in all."""
        return len(self.prompts) * self.samples

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnswerPiece:
        """The next piece: all that is new of one answer.

        Raises:
            ApiError: when an answer failed; the others of the request are given up then.
        """
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if not self._open:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._pieces.pop(next(iter(self._pieces)))

    async def all(self) -> list[AnswerPiece]:
        """Every answer whole, in order."""
        whole: dict[int, AnswerPiece] = {}
        async for piece in self:
            _merge(whole, piece)
        return [whole[index] for index in range(self.count)]

    def abort(self) -> None:
        """Give up what is open; its blocks are free after the engine's present step."""
        if self._open:
            self._open = 0
            self._give_up()
        self._changed.set()

    # For the service

    def add(self, piece: AnswerPiece) -> None:
        """What is new of an answer."""
        _merge(self._pieces, piece)
        if piece.completion is not None:
            self._open -= 1
        self._changed.set()

    def fail(self, error: ApiError) -> None:
        """One answer has failed, and with it the request."""
        if self._error is None:
            self._error = error
        self.abort()


def _merge(pieces: dict[int, AnswerPiece], piece: AnswerPiece) -> None:
    before = pieces.get(piece.index)
    if before is None:
        pieces[piece.index] = piece
        return
    before.text += piece.text
    before.token_ids += piece.token_ids
    before.log_probabilities += piece.log_probabilities
    before.prompt_log_probabilities = before.prompt_log_probabilities or piece.prompt_log_probabilities
    before.completion = piece.completion
