"""What a route asks of a model, whatever the API it speaks: prompts not yet tokens, options not yet complete."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.engine.sampling_options import SamplingOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Messages that go through the model's chat template.

    Attributes:
        variables: further names that the template reads, such as ``enable_thinking``.
        add_generation_prompt: end where an answer begins.
        continue_final_message: end inside the last message, which the answer goes on with.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False

    def with_tools(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
    ) -> "Conversation":
        """The same with other messages, and functions for the template."""
        return replace(self, messages=messages, tools=tools)


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A text as it is, with the BOS and EOS that the model expects unless it is told otherwise."""

    text: str
    add_special_tokens: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenIds:
    """Ids as they are."""

    ids: Sequence[int]


Prompt = Conversation | Text | TokenIds


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """Who asks: the name of an API key, and what keeps its cached prefixes apart from those of others."""

    name: str = ""
    salt: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One request.

    Attributes:
        request_id: the server's name for it.
        options: how answers are chosen; its ``max_tokens`` counts only with ``max_tokens`` below.
        max_tokens: of each answer; None for what the context and the server's limit allow. 0 computes the prompt only.
        samples: answers to each prompt.
        priority: smaller goes first, among requests of one owner.
        cache_salt: keeps cached prefixes apart further.
        prompt_logprobs: report the log probability of every token of the prompts behind the first, and of so many of
            the most likely in its place.
        truncate_prompt_tokens: keep so many of the last tokens of each prompt; -1 for as many as leave room for the
            answer (for one token where ``max_tokens`` is None); None refuses a prompt that does not fit.
        streams: whether the client reads while the answer is made.
        constraint: what the answers must look like.
        shown_tokens: special tokens that are part of the text of answers.
    """

    request_id: str
    owner: Owner
    prompts: Sequence[Prompt]
    options: SamplingOptions
    max_tokens: int | None
    samples: int = 1
    priority: int = 0
    cache_salt: str = ""
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    streams: bool = False
    constraint: ConstraintSpec | None = None
    shown_tokens: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingAsk:
    """Texts that shall become vectors.

    Attributes:
        pooling: how the server was told to make a text's states one; ``auto`` for what the model's files say.
        dimensions: numbers that a vector must have, where the request names them.
    """

    request_id: str
    owner: Owner
    prompts: Sequence[Prompt]
    pooling: Literal["auto", "mean", "last", "off"]
    dimensions: int | None = None
