"""/v1/responses: its body, and what becomes of it."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from flyweight.engine.sampling_options import SamplingOptions
from flyweight.serving.api_errors import ApiError
from flyweight.serving.protocol.body import Body
from flyweight.serving.protocol.chat import MOST_MESSAGES, MOST_PARTS
from flyweight.serving.protocol.sampling import LARGEST_TOKEN, Name


class InputText(Body):
    """A part of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class InputMessage(Body):
    """A message of the conversation, also one that an earlier answer gave."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[InputText], Field(max_length=MOST_PARTS)]
    id: Name | None = None
    status: Name | None = None
    phase: Name | None = None

    def to_template(self) -> dict[str, Any]:
        """The message as chat templates read it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class PlainText(Body):
    type: Literal["text"]


class TextOptions(Body):
    format: PlainText | None = None


class ResponseStreamOptions(Body):
    include_obfuscation: Literal[False] | None = None


class ResponseBody(Body):
    """The body of a request for a response."""

    model: Name | None = None
    input: str | Annotated[list[InputMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=LARGEST_TOKEN)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    store: bool | None = None
    previous_response_id: Name | None = None
    text: TextOptions | None = None
    metadata: Annotated[dict[str, Name], Field(max_length=16)] | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    user: Name | None = Field(None, description="not used")
    safety_identifier: Name | None = Field(None, description="not used")
    prompt_cache_key: Name | None = Field(None, description="prefixes are cached without one")

    def messages(self) -> list[dict[str, Any]]:
        """The new messages of the conversation, without the instructions."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return [one.to_template() for one in self.input]

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
