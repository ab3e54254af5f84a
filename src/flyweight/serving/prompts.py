"""From what a route asks to what the engine is asked: template, tokens, room in the context, sampling options.

All of it may take long for long texts, so it runs on a small pool of threads, never on the event loop.
"""

from dataclasses import dataclass, replace

from flyweight.engine.constraint import ConstraintFactory
from flyweight.engine.generation import Asked
from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.prompts import tokens_kept
from flyweight.errors import CheckpointError, FlyweightError, UsageError
from flyweight.serving.api_errors import CONTEXT_LENGTH, ApiError
from flyweight.serving.asks import Ask, Conversation, Prompt, Text, TokenIds
from flyweight.serving.limits import ServerLimits


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """One prompt that is ready for the engine. ``text`` is what was tokenized, None for ids; ``max_tokens`` is what
    each answer may have."""

    text: str | None
    ids: list[int]
    asked: Asked
    max_tokens: int


def prepare(
    model: LanguageModel, ask: Ask, limits: ServerLimits, *, engine_priority: bool, constraint: ConstraintFactory | None
) -> list[Prepared]:
    """Make every prompt of a request ready.

    Args:
        engine_priority: tell the engine of the request's priority, which passes those of other owners.
        constraint: what the request's constraint was compiled to.

    Raises:
        ApiError: 400, naming the field.
    """
    try:
        return [
            _prepare_one(
                model, ask, prompt, limits, place if len(ask.prompts) > 1 else None, engine_priority, constraint
            )
            for place, prompt in enumerate(ask.prompts)
        ]
    except FlyweightError as error:
        raise refusal(error, model) from error


def refusal(error: FlyweightError, model: LanguageModel, param: str | None = None) -> ApiError:
    """What a client is told of an error of this package: its words, without where the model lies."""
    message = str(error).replace(str(model.checkpoint.folder), "the model")
    status = 400 if isinstance(error, UsageError) else 500
    return ApiError(status, message, param=param)


def encode(model: LanguageModel, prompt: Prompt, *, most_characters: int) -> tuple[str | None, list[int]]:
    """A prompt's text, where it has one, and its token ids.

    Args:
        most_characters: a longer text is refused before it is tokenized, which would take long.

    Raises:
        ApiError: 400 where it is too long or cannot be read.
    """
    try:
        text = render(model, prompt)
        if text is None:
            assert isinstance(prompt, TokenIds)
            return None, model.encode(prompt.ids)
        if len(text) > most_characters:
            raise ApiError(
                400,
                f"the text has {len(text)} characters and {most_characters} are allowed; shorten it",
                param="messages" if isinstance(prompt, Conversation) else "prompt",
                code=CONTEXT_LENGTH,
            )
        adds = not isinstance(prompt, TokenIds) and prompt.add_special_tokens
        return text, model.encode(model.tokenizer.encode(text, add_special_tokens=adds))
    except CheckpointError as error:
        raise ApiError(400, "this model has no tokenizer; give token ids", code="no_tokenizer") from error
    except UsageError as error:
        raise refusal(error, model, "messages" if isinstance(prompt, Conversation) else "prompt") from error


def render(model: LanguageModel, prompt: Prompt) -> str | None:
    """The text that is tokenized; None for ids."""
    match prompt:
        case Text():
            return prompt.text
        case TokenIds():
            return None
        case Conversation():
            text = model.tokenizer.render_chat(
                prompt.messages,
                tools=prompt.tools,
                variables=prompt.variables,
                add_generation_prompt=prompt.add_generation_prompt,
            )
            return _cut_behind(text, prompt.messages[-1].get("content")) if prompt.continue_final_message else text


def _cut_behind(text: str, content: object) -> str:
    """The rendered conversation up to the end of its last message's text."""
    if not isinstance(content, str) or not content.strip():
        raise UsageError("continue_final_message needs a last message whose content is a text that is not empty")
    place = text.rfind(content.strip())
    if place < 0:
        raise UsageError("continue_final_message is not possible: the template changes the text of the last message")
    return text[: place + len(content.strip())]


def _prepare_one(
    model: LanguageModel,
    ask: Ask,
    prompt: Prompt,
    limits: ServerLimits,
    place: int | None,
    engine_priority: bool,
    constraint: ConstraintFactory | None,
) -> Prepared:
    most = model.context_length * model.tokenizer.longest_token if not isinstance(prompt, TokenIds) else 0
    if ask.truncate_prompt_tokens is not None:
        most = max(most, limits.tokenized_characters)  # what is longer may be cut to fit
    text, ids = encode(model, prompt, most_characters=most)  # what is longer cannot fit
    kept = tokens_kept(
        ask.truncate_prompt_tokens, context_length=model.context_length, max_tokens=max(1, ask.max_tokens or 1)
    )
    if kept is not None and len(ids) > kept:
        text, ids = None, ids[-kept:]
    param = "messages" if isinstance(prompt, Conversation) else "prompt" if place is None else f"prompt[{place}]"
    if not ids:
        raise ApiError(400, "the prompt has no tokens; give it at least one character", param=param)
    room = model.context_length - len(ids)
    if room < 1:
        raise ApiError(
            400,
            f"this model's context holds {model.context_length} tokens and the prompt has {len(ids)}, which leaves no "
            f"room for an answer; shorten the prompt by at least {1 - room} tokens",
            param=param,
            code=CONTEXT_LENGTH,
        )
    wanted = min(room, limits.answer_tokens) if ask.max_tokens is None else min(ask.max_tokens, room)
    options = replace(ask.options, max_tokens=max(1, wanted), min_tokens=min(ask.options.min_tokens, max(1, wanted)))
    asked = model.ask(ids, options, samples=ask.samples, salt=_salt(ask), shown_tokens=ask.shown_tokens)
    request = replace(
        asked.request,
        priority=ask.priority if engine_priority else 0,
        prompt_logprobs=ask.prompt_logprobs,
        constraint=constraint,
    )
    return Prepared(text=text, ids=ids, asked=Asked(request=request, answers=asked.answers), max_tokens=wanted)


def compile_constraint(model: LanguageModel, spec: ConstraintSpec) -> ConstraintFactory:
    """What makes the state of a constraint for each answer.

    Raises:
        ApiError: 400 when it cannot be kept.
    """
    try:
        return model.grammars.compile(spec)
    except FlyweightError as error:
        raise refusal(error, model, spec.origin) from error


def _salt(ask: Ask) -> str:
    """Prefixes are shared by requests of one key with one salt; the key's part has a fixed length."""
    return ask.owner.salt + ask.cache_salt
