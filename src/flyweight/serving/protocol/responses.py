"""/v1/responses: its body, and what becomes of it."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from flyweight.engine.sampling_options import SamplingOptions
from flyweight.serving.api_errors import ApiError
from flyweight.serving.protocol.body import Body, OnlyFalse
from flyweight.serving.protocol.chat import MOST_MESSAGES, MOST_PARTS, MOST_TOOLS, read_arguments
from flyweight.serving.protocol.sampling import LARGEST_TOKEN, Name


class InputText(Body):
    """A part of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=MOST_PARTS, fail_fast=True)] | None = None
    logprobs: Annotated[list[Any], Field(max_length=MOST_PARTS, fail_fast=True)] | None = None


class InputMessage(Body):
    """A message of the conversation, also one that an earlier answer gave."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[InputText], Field(max_length=MOST_PARTS, fail_fast=True)]
    id: Name | None = None
    status: Name | None = None
    phase: Name | None = None

    def to_template(self) -> dict[str, Any]:
        """The message as chat templates read it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class MadeCall(Body):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: Name
    name: Name
    arguments: str
    id: Name | None = None
    status: Name | None = None


class CallOutput(Body):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: Name
    output: str | Annotated[list[InputText], Field(max_length=MOST_PARTS, fail_fast=True)]
    id: Name | None = None
    status: Name | None = None


class TextFormat(Body):
    """What the text must look like."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None

    def to_response_format(self) -> dict[str, Any]:
        """The same as the chat API has it."""
        if self.type != "json_schema":
            return {"type": self.type}
        schema: dict[str, Any] = {"name": self.name or "answer", "strict": bool(self.strict)}
        if self.json_schema is not None:
            schema["schema"] = self.json_schema
        return {"type": self.type, "json_schema": schema}


class TextOptions(Body):
    format: TextFormat | None = None


class FunctionTool(Body):
    """A function that the answer may call."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def to_function(self) -> dict[str, Any]:
        """The same as the chat API has it."""
        return {"type": "function", "function": self.model_dump(exclude={"type"}, exclude_none=True)}


class FunctionChoice(Body):
    type: Literal["function"]
    name: Name


class ResponseStreamOptions(Body):
    include_obfuscation: OnlyFalse | None = None


class ResponseBody(Body):
    """The body of a request for a response."""

    model: Name | None = None
    input: (
        str
        | Annotated[
            list[InputMessage | MadeCall | CallOutput], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
        ]
    )
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=LARGEST_TOKEN)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: Annotated[list[Literal["message.output_text.logprobs"]], Field(max_length=1)] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = None
    previous_response_id: Name | None = None
    text: TextOptions | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["auto", "none", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: Annotated[dict[str, Name], Field(max_length=16)] | None = None
    truncation: Literal["disabled"] | None = None
    background: OnlyFalse | None = None
    service_tier: Literal["auto", "default"] | None = None
    user: Name | None = Field(None, description="not used")
    safety_identifier: Name | None = Field(None, description="not used")
    prompt_cache_key: Name | None = Field(None, description="prefixes are cached without one")

    def messages(self) -> list[dict[str, Any]]:
        """The new messages of the conversation, without the instructions."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        found: list[dict[str, Any]] = []
        for one in self.input:
            if isinstance(one, InputMessage):
                found.append(one.to_template())
            elif isinstance(one, CallOutput):
                text = one.output if isinstance(one.output, str) else "".join(part.text for part in one.output)
                found.append({"role": "tool", "tool_call_id": one.call_id, "content": text})
            else:
                call: dict[str, Any] = {"id": one.call_id, "type": "function"}
                call["function"] = {"name": one.name, "arguments": read_arguments(one.arguments)}
                if not (found and found[-1]["role"] == "assistant"):
                    found.append({"role": "assistant", "content": ""})
                found[-1]["tool_calls"] = [*found[-1].get("tool_calls", ()), call]
        return found

    @property
    def functions(self) -> list[dict[str, Any]]:
        """The functions as the chat API has them."""
        return [tool.to_function() for tool in self.tools or ()]

    @property
    def choice(self) -> str | dict[str, Any] | None:
        """Which of them may be called, as the chat API has it."""
        if isinstance(self.tool_choice, FunctionChoice):
            return {"type": "function", "function": {"name": self.tool_choice.name}}
        return self.tool_choice

    @property
    def response_format(self) -> dict[str, Any] | None:
        """What the text must look like, as the chat API has it."""
        return None if self.text is None or self.text.format is None else self.text.format.to_response_format()

    @property
    def listed(self) -> int | None:
        """Most likely tokens to list; None without log probabilities.

        Raises:
            ApiError: 400 when a number is given and they are not wanted.
        """
        if not self.include:
            if self.top_logprobs:
                raise ApiError(400, "top_logprobs needs include=['message.output_text.logprobs']", param="top_logprobs")
            return None
        return self.top_logprobs or 0

    def sampling_options(self) -> SamplingOptions:
        """The options as the engine takes them."""
        return SamplingOptions(
            temperature=self.temperature, top_p=self.top_p, max_tokens=LARGEST_TOKEN, logprobs=self.listed
        )


def with_instructions(instructions: str | None, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with the instructions of this request before it."""
    return [*([] if instructions is None else [{"role": "system", "content": instructions}]), *messages]
