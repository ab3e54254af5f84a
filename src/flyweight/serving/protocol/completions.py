"""/v1/completions: its body."""

from typing import Annotated, Literal

from pydantic import Field

from flyweight.serving.api_errors import ApiError
from flyweight.serving.asks import Prompt, Text, TokenIds
from flyweight.serving.protocol.sampling import LARGEST_TOKEN, GenerationBody, TokenId

MOST_PROMPTS = 1024
MOST_IDS = 1 << 20

Ids = Annotated[list[TokenId], Field(min_length=1, max_length=MOST_IDS, fail_fast=True)]
Texts = Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
ManyIds = Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]


class CompletionBody(GenerationBody):
    """The body of a request that continues texts.

    With ``echo`` the prompt stands before the answer, and with ``logprobs`` its tokens are scored too; ``max_tokens`` 0
    then makes no answer at all.
    """

    prompt: str | Texts | Ids | ManyIds
    max_tokens: Annotated[int, Field(ge=0, le=LARGEST_TOKEN)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = Field(None, description="put BOS before a text; true where it is left out")
    best_of: Annotated[int, Field(ge=1, le=1)] | None = Field(None, description="only 1")
    suffix: Literal[""] | None = Field(None, description="not supported")

    def prompts(self) -> list[Prompt]:
        """What is continued."""
        adds = self.add_special_tokens is not False
        if isinstance(self.prompt, str):
            return [Text(text=self.prompt, add_special_tokens=adds)]
        found: list[Prompt] = []
        ids: list[int] = []
        for one in self.prompt:
            if isinstance(one, str):
                found.append(Text(text=one, add_special_tokens=adds))
            elif isinstance(one, int):
                ids.append(one)
            else:
                found.append(TokenIds(ids=one))
        return found or [TokenIds(ids=ids)]

    @property
    def scored(self) -> int | None:
        """Most likely tokens in the place of each of a prompt's tokens that are wanted; None where it is not scored."""
        wanted = [self.logprobs if self.echo else None, self.prompt_logprobs]
        return max((one for one in wanted if one is not None), default=None)

    def check(self) -> None:
        """Raise ApiError where fields contradict one another."""
        self.check_stream_options()
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise ApiError(
                400,
                "max_tokens=0 makes sense with echo=true or prompt_logprobs only; choose 1 or more",
                param="max_tokens",
            )
