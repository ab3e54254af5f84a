"""/v1/messages, the form of Anthropic's API: its bodies, and what becomes of them."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from flyweight.engine.sampling_options import MAX_STOP_STRINGS, SamplingOptions
from flyweight.serving.asks import Conversation
from flyweight.serving.protocol.body import Body
from flyweight.serving.protocol.chat import MOST_MESSAGES, MOST_PARTS
from flyweight.serving.protocol.sampling import LARGEST_TOKEN, Name, StopString

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}
MOST_TOOLS = 128


class CacheControl(Body):
    """A hint of Anthropic's API; prefixes are cached here without one."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Body):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: None = None


class ToolUseBlock(Body):
    """A call that an earlier answer made."""

    type: Literal["tool_use"]
    id: Name
    name: Name
    input: dict[str, Any]
    cache_control: CacheControl | None = None


class ToolResultBlock(Body):
    """What a call gave."""

    type: Literal["tool_result"]
    tool_use_id: Name
    content: str | Annotated[list[TextBlock], Field(max_length=MOST_PARTS, fail_fast=True)] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


Block = Annotated[TextBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class MessageParam(Body):
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str | Annotated[list[Block], Field(max_length=MOST_PARTS, fail_fast=True)]

    def to_template(self) -> list[dict[str, Any]]:
        """The message as chat templates read it: results of calls become messages of their own."""
        if isinstance(self.content, str):
            return [{"role": self.role, "content": self.content}]
        found: list[dict[str, Any]] = []
        text = "".join(block.text for block in self.content if isinstance(block, TextBlock))
        calls = [
            {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}
            for block in self.content
            if isinstance(block, ToolUseBlock)
        ]
        found += [
            {"role": "tool", "tool_call_id": block.tool_use_id, "content": text_of(block.content)}
            for block in self.content
            if isinstance(block, ToolResultBlock)
        ]
        if text or calls or not found:
            own: dict[str, Any] = {"role": self.role, "content": text}
            found.append({**own, "tool_calls": calls} if calls else own)
        return found


class MessageTool(Body):
    """A function that the answer may call."""

    name: Name
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    cache_control: CacheControl | None = None

    def to_function(self) -> dict[str, Any]:
        """The same as OpenAI's API has it."""
        function = {"name": self.name, "description": self.description or "", "parameters": self.input_schema}
        return {"type": "function", "function": function}


class MessageToolChoice(Body):
    """Whether functions may or must be called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool | None = None

    def to_choice(self) -> str | dict[str, Any]:
        """The same as OpenAI's API has it."""
        if self.type == "tool":
            return {"type": "function", "function": {"name": self.name}}
        return "required" if self.type == "any" else self.type


class MessageMetadata(Body):
    user_id: Name | None = None


class NoThinking(Body):
    type: Literal["disabled"]


class CountBody(Body):
    """What is counted by /v1/messages/count_tokens."""

    model: Name | None = None
    messages: Annotated[list[MessageParam], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    system: str | Annotated[list[TextBlock], Field(max_length=MOST_PARTS, fail_fast=True)] | None = None
    tools: Annotated[list[MessageTool], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = None
    tool_choice: MessageToolChoice | None = None

    @property
    def functions(self) -> list[dict[str, Any]]:
        """The functions as OpenAI's API has them."""
        return [tool.to_function() for tool in self.tools or ()]

    def conversation(self) -> Conversation:
        """What goes through the template. A last message of the assistant is gone on with."""
        messages = [message for one in self.messages for message in one.to_template()]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": text_of(self.system)})
        continues = self.messages[-1].role == "assistant" and not messages[-1].get("tool_calls")
        return Conversation(messages=messages, add_generation_prompt=not continues, continue_final_message=continues)


class MessagesBody(CountBody):
    """The body of a request for an answer."""

    max_tokens: Annotated[int, Field(ge=1, le=LARGEST_TOKEN)]
    stop_sequences: Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=LARGEST_TOKEN)] | None = None
    metadata: MessageMetadata | None = Field(None, description="not used")
    service_tier: Literal["auto", "standard_only"] | None = None
    thinking: NoThinking | None = None

    def sampling_options(self) -> SamplingOptions:
        """The options as the engine takes them."""
        return SamplingOptions(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=tuple(self.stop_sequences or ()),
            max_tokens=LARGEST_TOKEN,
        )


def text_of(content: str | list[TextBlock] | None) -> str:
    """Blocks of text in one piece."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(block.text for block in content)


def call_block(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call as a block of an answer; arguments that are no JSON object stand under ``text``."""
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError):
        given = None
    return {
        "type": "tool_use",
        "id": call_id,
        "name": name,
        "input": given if isinstance(given, dict) else {"text": arguments},
    }
