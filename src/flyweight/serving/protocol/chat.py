"""/v1/chat/completions: its body."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from flyweight.serving.api_errors import ApiError
from flyweight.serving.asks import Conversation
from flyweight.serving.protocol.body import Body, OnlyFalse
from flyweight.serving.protocol.sampling import LARGEST_TOKEN, LONGEST_NAME, GenerationBody, Name

MOST_MESSAGES = 4096
MOST_PARTS = 256
MOST_CALLS = MOST_TOOLS = 128
SET_BY_SERVER = ("messages", "tools", "add_generation_prompt", "chat_template", "documents")

Role = Literal["system", "developer", "user", "assistant", "tool"]


class TextPart(Body):
    """The only kind of part that a model of text takes."""

    type: Literal["text"]
    text: str


class CalledFunction(Body):
    name: Name
    arguments: str


class ToolCall(Body):
    """A call that an earlier answer made."""

    id: Name
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """One message of a conversation."""

    role: Role
    content: str | Annotated[list[TextPart], Field(max_length=MOST_PARTS, fail_fast=True)] | None = None
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MOST_CALLS, fail_fast=True)] | None = None
    tool_call_id: Name | None = None
    reasoning_content: str | None = None
    refusal: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, given: Any) -> Any:
        parts = given.get("content") if isinstance(given, dict) else None
        for part in parts if isinstance(parts, list) else []:
            if isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] != "text":
                kind = part["type"][:LONGEST_NAME]
                raise ValueError(f"a part of type {kind!r} is not possible: this server takes text only")
        return given

    @model_validator(mode="after")
    def _has_something(self) -> "Message":
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or self.refusal)):
            raise ValueError(f"a message of role {self.role!r} needs content")
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError(f"tool_calls belong to messages of role 'assistant', not {self.role!r}")
        return self

    def to_template(self) -> dict[str, Any]:
        """The message as chat templates read it: text in one piece, arguments of calls as objects, and the role that
        every template knows."""
        found: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role}
        content = self.content if isinstance(self.content, str) or self.content is None else None
        if isinstance(self.content, list):
            content = "".join(part.text for part in self.content)
        found["content"] = content if content is not None else self.refusal or ""
        for name in ("name", "tool_call_id", "reasoning_content"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        if self.tool_calls:
            found["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": read_arguments(call.function.arguments)},
                }
                for call in self.tool_calls
            ]
        return found


def read_arguments(text: str) -> Any:
    """The arguments of a call as chat templates read them."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # a model may have written what is no JSON; the template shows it as it was


class ChatBody(GenerationBody):
    """The body of a request for answers in a conversation."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1, le=LARGEST_TOKEN)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=LARGEST_TOKEN)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: OnlyFalse | None = Field(None, description="templates write them themselves")
    chat_template_kwargs: Annotated[dict[Name, Any], Field(max_length=32)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    response_format: dict[str, Any] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def length(self) -> int | None:
        """Tokens of an answer at most.

        Raises:
            ApiError: 400 when two fields differ.
        """
        given = {one for one in (self.max_tokens, self.max_completion_tokens) if one is not None}
        if len(given) > 1:
            raise ApiError(400, "max_tokens and max_completion_tokens differ; give one of them", param="max_tokens")
        return given.pop() if given else None

    @property
    def listed(self) -> int | None:
        """Most likely tokens to list; None without log probabilities.

        Raises:
            ApiError: 400 when a number is given and they are not wanted.
        """
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs=true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    def conversation(self) -> Conversation:
        """What goes through the template.

        Raises:
            ApiError: 400 for variables that the server sets itself, or contradicting wishes for the end.
        """
        variables = dict(self.chat_template_kwargs or {})
        if self.reasoning_effort is not None:
            variables["reasoning_effort"] = self.reasoning_effort
        return conversation_of(
            self.messages,
            variables=variables,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
        )


def conversation_of(
    messages: Sequence[Message],
    *,
    variables: Mapping[str, Any] | None,
    add_generation_prompt: bool | None,
    continue_final_message: bool | None,
) -> Conversation:
    """Messages as they go through the template; it ends where an answer begins unless it is told otherwise.

    Raises:
        ApiError: 400 for variables that the server sets itself, or contradicting wishes for the end.
    """
    for name in SET_BY_SERVER:
        if name in (variables or {}):
            raise ApiError(400, f"chat_template_kwargs may not hold {name!r}", param="chat_template_kwargs")
    continues = bool(continue_final_message)
    begins = not continues if add_generation_prompt is None else add_generation_prompt
    if continues and begins:
        raise ApiError(
            400,
            "continue_final_message and add_generation_prompt exclude each other; give one of them",
            param="continue_final_message",
        )
    return Conversation(
        messages=[message.to_template() for message in messages],
        variables=dict(variables or {}),
        add_generation_prompt=begins,
        continue_final_message=continues,
    )
