"""/tokenize and /detokenize: their bodies."""

from typing import Annotated, Any

from pydantic import Field

from flyweight.serving.api_errors import ApiError
from flyweight.serving.asks import Conversation, Prompt, Text
from flyweight.serving.protocol.body import Body
from flyweight.serving.protocol.chat import MOST_MESSAGES, Message, conversation_of
from flyweight.serving.protocol.completions import MOST_IDS
from flyweight.serving.protocol.sampling import Name, TokenId


class TokenizeBody(Body):
    """A text, or a conversation that goes through the model's template."""

    model: Name | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Annotated[dict[Name, Any], Field(max_length=32)] | None = None
    return_token_strs: bool | None = None

    def to_prompt(self) -> Prompt:
        """What is tokenized.

        Raises:
            ApiError: 400 unless there is exactly one of prompt and messages.
        """
        if (self.prompt is None) == (self.messages is None):
            raise ApiError(400, "give either prompt or messages", param="prompt")
        if self.messages is None:
            assert self.prompt is not None
            return Text(text=self.prompt, add_special_tokens=self.add_special_tokens is not False)
        conversation: Conversation = conversation_of(
            self.messages,
            variables=self.chat_template_kwargs,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
        )
        return conversation


class DetokenizeBody(Body):
    """Token ids."""

    model: Name | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MOST_IDS, fail_fast=True)]
