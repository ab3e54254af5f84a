"""The fields that every generating API of OpenAI's kind shares, and the options that they become."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from flyweight.engine.prompts import check_truncation
from flyweight.engine.sampling_options import (
    MAX_ALLOWED_TOKENS,
    MAX_BAD_WORDS,
    MAX_BIASES,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
    SamplingOptions,
)
from flyweight.errors import UsageError
from flyweight.serving.api_errors import ApiError
from flyweight.serving.protocol.body import Body, OnlyFalse

MOST_ANSWERS = 64
LARGEST_TOKEN = 2**31 - 1
LONGEST_NAME = 256
LONGEST_STOP = 1024

TokenId = Annotated[int, Field(ge=0, le=LARGEST_TOKEN)]
Name = Annotated[str, Field(max_length=LONGEST_NAME)]
StopString = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


def as_list(value: Any) -> Any:
    """One text, or a list of them."""
    return [value] if isinstance(value, str) else value


Stop = Annotated[
    list[StopString],
    Field(max_length=MAX_STOP_STRINGS, json_schema_extra={"description": "One text, or a list of texts."}),
    BeforeValidator(
        as_list,
        json_schema_input_type=StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)],
    ),
]
LogitBias = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,10}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=MAX_BIASES),
]


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationBody(Body):
    """How answers are chosen, how many, and how they are sent."""

    model: Name | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=LARGEST_TOKEN, description="0 or -1: from all tokens")] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: LogitBias | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS, fail_fast=True)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=LARGEST_TOKEN)] | None = None
    ignore_eos: bool | None = None
    allowed_token_ids: (
        Annotated[list[TokenId], Field(min_length=1, max_length=MAX_ALLOWED_TOKENS, fail_fast=True)] | None
    ) = Field(None, description="only these are chosen, ends only where they are named")
    bad_words: Annotated[list[StopString], Field(max_length=MAX_BAD_WORDS, fail_fast=True)] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = Field(None, description="special tokens stand without spaces between")
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncate_prompt_tokens: (
        Annotated[int, Field(ge=-1, le=LARGEST_TOKEN, description="-1: what leaves room for the answer")] | None
    ) = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Annotated[int, Field(ge=-(2**31), le=LARGEST_TOKEN, description="smaller goes first")] | None = None
    cache_salt: Name | None = None
    return_token_ids: bool | None = None
    user: Name | None = Field(None, description="not used")
    metadata: Annotated[dict[str, Name], Field(max_length=16)] | None = Field(None, description="not used")
    structured_outputs: dict[str, Any] | None = None
    store: OnlyFalse | None = Field(None, description="completions are not stored")

    def sampling_options(self, *, max_tokens: int | None, logprobs: int | None) -> SamplingOptions:
        """The options as the engine takes them; ``max_tokens`` for the check of ``min_tokens``.

        Raises:
            ApiError: 400 for fields that contradict one another.
        """
        self._check_combinations()
        min_tokens = self.min_tokens or 0
        if max_tokens is not None and min_tokens > max_tokens:
            raise ApiError(
                400, f"min_tokens={min_tokens} is above max_tokens={max_tokens}; lower it", param="min_tokens"
            )
        try:
            return SamplingOptions(
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=None if self.top_k is None else max(0, self.top_k),
                min_p=self.min_p,
                presence_penalty=self.presence_penalty or 0.0,
                frequency_penalty=self.frequency_penalty or 0.0,
                repetition_penalty=self.repetition_penalty,
                logit_bias=tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
                seed=self.seed,
                stop=tuple(self.stop or ()),
                stop_token_ids=tuple(self.stop_token_ids or ()),
                max_tokens=LARGEST_TOKEN,
                min_tokens=min_tokens,
                ignore_eos=bool(self.ignore_eos),
                allowed_token_ids=tuple(self.allowed_token_ids or ()),
                bad_words=tuple(self.bad_words or ()),
                include_stop_str_in_output=bool(self.include_stop_str_in_output),
                skip_special_tokens=self.skip_special_tokens is not False,
                logprobs=logprobs,
            )
        except UsageError as error:
            raise ApiError(400, str(error)) from error

    def _check_combinations(self) -> None:
        if self.spaces_between_special_tokens and self.skip_special_tokens is False:
            raise ApiError(
                400,
                "special tokens are written without spaces between them; leave spaces_between_special_tokens out",
                param="spaces_between_special_tokens",
            )
        try:
            check_truncation(self.truncate_prompt_tokens)
        except UsageError as error:
            raise ApiError(400, str(error), param="truncate_prompt_tokens") from error
        if self.prompt_logprobs is not None and self.stream:
            raise ApiError(
                400, "prompt_logprobs come with whole answers only; leave stream out", param="prompt_logprobs"
            )

    def check_stream_options(self) -> None:
        """Raise ApiError where options of a stream are given for an answer that is none."""
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options need stream=true", param="stream_options")
