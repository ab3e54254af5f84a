"""What a reader gets of the engine's news."""

from dataclasses import replace

from flyweight.engine.generation import Completion
from flyweight.serving.answers import AnswerPiece
from flyweight.serving.jobs import News


def piece(index: int, news: News) -> AnswerPiece:
    """What is new of the answer with this index."""
    return AnswerPiece(
        index=index,
        text=news.text,
        token_ids=list(news.token_ids),
        log_probabilities=list(news.log_probabilities),
        prompt_log_probabilities=news.prompt_log_probabilities,
        completion=news.completion,
    )


def scored_only(index: int, news: News) -> AnswerPiece:
    """What remains of an answer to a request for no tokens: the engine has made one, to have computed the prompt."""
    return AnswerPiece(
        index=index,
        text="",
        token_ids=[],
        log_probabilities=[],
        prompt_log_probabilities=news.prompt_log_probabilities,
        completion=None if news.completion is None else _without_tokens(news.completion),
    )


def _without_tokens(completion: Completion) -> Completion:
    return replace(
        completion,
        text="",
        token_ids=(),
        log_probabilities=(),
        finish_reason="length",
        stop_string=None,
        usage=replace(completion.usage, completion_tokens=0),
    )
