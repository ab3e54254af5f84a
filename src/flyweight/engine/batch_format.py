"""One line of an OpenAI batch file: from JSON text to what the engine is asked, and from answers to an output line.

Every field of a body is either honoured or refused by name; none is dropped. It knows no files and no engine.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flyweight.engine.generation import Completion
from flyweight.engine.grammar.spec import ConstraintSpec, constraint_of
from flyweight.engine.log_probabilities import (
    chat_log_probabilities,
    prompt_log_probabilities,
    text_log_probabilities,
)
from flyweight.engine.prompts import check_truncation
from flyweight.engine.sampling import TokenLogProbability
from flyweight.engine.sampling_options import SamplingOptions
from flyweight.errors import UsageError, nearest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LINE_FIELDS = ("custom_id", "method", "url", "body")
MOST_ANSWERS = 64
MOST_LISTED = 20
LONGEST_CUSTOM_ID = 512

SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
)
SHARED_FIELDS = (
    *SAMPLING_FIELDS,
    "stop_token_ids",
    "allowed_token_ids",
    "bad_words",
    "model",
    "max_tokens",
    "stop",
    "logit_bias",
    "n",
    "user",
    "metadata",
    "structured_outputs",
    "prompt_logprobs",
    "truncate_prompt_tokens",
)
CHAT_FIELDS = (
    *SHARED_FIELDS,
    "messages",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "stream",
    "store",
    "response_format",
)
COMPLETION_FIELDS = (*SHARED_FIELDS, "prompt", "logprobs", "stream", "echo", "suffix", "best_of")
OFF_ONLY: Mapping[str, tuple[object, ...]] = {
    "stream": (False,),
    "store": (False,),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}


class LineError(UsageError):
    """A line that cannot be carried out.

    ``param`` names the field at fault; ``custom_id`` is None where it is unreadable.
    """

    def __init__(self, message: str, *, param: str | None = None, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.custom_id = custom_id


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest:
    """A line that was understood.

    Attributes:
        prompts: texts, lists of ids or conversations; several only for ``/v1/completions``.
        options: for every prompt, ``num_answers`` times.
        constraint: what every answer must look like.
        model: the name in the body, which is repeated in the answer and otherwise not used.
        prompt_logprobs: report the log probability of every token of the prompts behind the first, and of so many of
            the most likely in its place.
        truncate_prompt_tokens: keep so many of the last tokens of each prompt; -1 for as many as leave room for the
            answer; None refuses a prompt that does not fit.
    """

    custom_id: str
    is_chat: bool
    model: str
    prompts: tuple[Any, ...]
    options: SamplingOptions
    num_answers: int
    constraint: ConstraintSpec | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None


def parse_line(text: str, *, max_tokens: int) -> BatchRequest:
    """Understand a line; ``max_tokens`` is for bodies that name none.

    Raises:
        LineError: naming what was given and what is allowed.
    """
    try:
        line = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise LineError(f"the line is not JSON: {error}") from error
    if not isinstance(line, dict):
        raise LineError(f"the line is a JSON {_kind(line)}; an object with {', '.join(LINE_FIELDS)} is needed")
    custom_id = line.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= LONGEST_CUSTOM_ID:
        raise LineError(f"custom_id must be a text of 1 to {LONGEST_CUSTOM_ID} characters", param="custom_id")
    try:
        return _request(line, custom_id, max_tokens)
    except LineError as error:
        error.custom_id = custom_id
        raise
    except UsageError as error:
        raise LineError(str(error), custom_id=custom_id) from error


def _request(line: Mapping[str, Any], custom_id: str, max_tokens: int) -> BatchRequest:
    _refuse_unknown(line, LINE_FIELDS, "the line")
    if line.get("method") != "POST":
        raise LineError(f"method={line.get('method')!r} is not possible; it must be 'POST'", param="method")
    url, body = line.get("url"), line.get("body")
    if url not in (CHAT, COMPLETIONS):
        raise LineError(f"url={url!r} is not served; choose {CHAT} or {COMPLETIONS}", param="url")
    if not isinstance(body, dict):
        raise LineError("body must be an object", param="body")
    is_chat = url == CHAT
    _refuse_unknown(body, CHAT_FIELDS if is_chat else COMPLETION_FIELDS, "the body")
    for name, allowed in OFF_ONLY.items():
        if body.get(name) is not None and body[name] not in allowed:
            raise LineError(f"{name}={body[name]!r} is not supported in a batch; leave it out", param=name)
    num_answers = _integer(body, "n", 1, MOST_ANSWERS) or 1
    check_truncation(body.get("truncate_prompt_tokens"))
    options = _options(body, is_chat, max_tokens)
    prompts = (_messages(body),) if is_chat else _prompts(body)
    return BatchRequest(
        custom_id=custom_id,
        is_chat=is_chat,
        model=_text(body, "model"),
        prompts=prompts,
        options=options,
        num_answers=num_answers,
        constraint=constraint_of(body.get("response_format"), body.get("structured_outputs")),
        prompt_logprobs=_integer(body, "prompt_logprobs", 0, MOST_LISTED),
        truncate_prompt_tokens=body.get("truncate_prompt_tokens"),
    )


def _options(body: Mapping[str, Any], is_chat: bool, max_tokens: int) -> SamplingOptions:
    given = {name: body[name] for name in SAMPLING_FIELDS if body.get(name) is not None}
    if given.get("top_k") == -1:
        given["top_k"] = 0  # the server takes both for "from all tokens"
    if body.get("allowed_token_ids") == []:
        raise LineError(
            "allowed_token_ids=[] would allow nothing; name at least one token, or leave it out",
            param="allowed_token_ids",
        )
    limits = [name for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
    if len(limits) == 2 and body[limits[0]] != body[limits[1]]:
        raise LineError("max_tokens and max_completion_tokens differ; give one of them", param="max_tokens")
    stop = body.get("stop") or []
    if not isinstance(stop, (str, list)):
        raise LineError(f"stop={stop!r} is not possible; stop must be a text or a list of texts", param="stop")
    return SamplingOptions(
        **given,
        max_tokens=body[limits[0]] if limits else max_tokens,
        stop_token_ids=_list(body, "stop_token_ids"),
        allowed_token_ids=_list(body, "allowed_token_ids"),
        bad_words=_list(body, "bad_words"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        logit_bias=_logit_bias(body.get("logit_bias") or {}),
        logprobs=_logprobs(body, is_chat),
    )


def _logit_bias(given: Any) -> tuple[tuple[int, float], ...]:
    if not isinstance(given, dict) or not all(name.isdecimal() for name in given):
        raise LineError("logit_bias must be an object of token ids and numbers", param="logit_bias")
    return tuple((int(name), bias) for name, bias in given.items())


def _logprobs(body: Mapping[str, Any], is_chat: bool) -> int | None:
    given = body.get("logprobs")
    if not is_chat:
        return _integer(body, "logprobs", 0, MOST_LISTED)
    if given is not None and not isinstance(given, bool):
        raise LineError(f"logprobs={given!r} is not a boolean; top_logprobs says how many", param="logprobs")
    if body.get("top_logprobs") is not None and not given:
        raise LineError("top_logprobs needs logprobs=true", param="top_logprobs")
    return (_integer(body, "top_logprobs", 0, MOST_LISTED) or 0) if given else None


def _messages(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise LineError("messages must be a list of at least one object with role and content", param="messages")
    for place, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise LineError(f"messages[{place}] has no role", param=f"messages[{place}].role")
    return messages


def _prompts(body: Mapping[str, Any]) -> tuple[Any, ...]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt, list) and prompt:
        if all(isinstance(one, int) and not isinstance(one, bool) for one in prompt):
            return (prompt,)
        if len(prompt) <= MOST_ANSWERS and all(isinstance(one, str) for one in prompt):
            return tuple(prompt)
    raise LineError(
        f"prompt must be a text, a list of token ids, or a list of 1 to {MOST_ANSWERS} texts", param="prompt"
    )


def _refuse_unknown(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            raise LineError(f"{what} has an unknown field {name!r}{nearest(name, known)}", param=name)


def _list(body: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    value = body.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise LineError(f"{name}={value!r} is not a list", param=name)
    return tuple(value)


def _integer(body: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise LineError(f"{name}={value!r} is not allowed; choose {low} to {high}", param=name)
    return value


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise LineError(f"the body needs {name}, a text", param=name)
    return value


def _kind(value: object) -> str:
    return {list: "list", str: "text", bool: "boolean", type(None): "null"}.get(type(value), "number")


def answer_line(
    number: int,
    request: BatchRequest,
    completions: Sequence[Completion],
    *,
    created: int,
    token: Callable[[int], str],
    prompt_scores: Sequence[Sequence[TokenLogProbability]] = (),
) -> dict[str, Any]:
    """The output line of a request that was answered.

    Args:
        completions: prompt by prompt, answer by answer.
        token: the text of a token, for log probabilities.
        prompt_scores: for each prompt the scores of its tokens behind the first, where the request wants them.
    """
    usage = [completion.usage for completion in completions]
    prompt_tokens = sum(one.prompt_tokens for one in usage[:: request.num_answers])
    completion_tokens = sum(one.completion_tokens for one in usage)
    choices = [_choice(place, one, request, token) for place, one in enumerate(completions)]
    body: dict[str, Any] = {
        "id": f"{'chatcmpl' if request.is_chat else 'cmpl'}-{number}",
        "object": "chat.completion" if request.is_chat else "text_completion",
        "created": created,
        "model": request.model,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
    if request.prompt_logprobs is not None:
        # Where the server has them: a conversation is one prompt, each choice of a completion may have its own.
        written = [prompt_log_probabilities(one, token, listed=request.prompt_logprobs) for one in prompt_scores]
        if request.is_chat:
            body["prompt_logprobs"] = written[0]
        else:
            for place, choice in enumerate(choices):
                choice["prompt_logprobs"] = written[place // request.num_answers]
    return _line(number, request.custom_id, 200, body, None)


def error_line(number: int, error: LineError) -> dict[str, Any]:
    """The output line of a request that was refused or failed."""
    detail = {"message": str(error), "type": "invalid_request_error", "param": error.param, "code": None}
    return _line(number, error.custom_id, 400, {"error": detail}, {"code": "invalid_request", "message": str(error)})


def _line(
    number: int, custom_id: str | None, status: int, body: Mapping[str, Any], error: Mapping[str, Any] | None
) -> dict[str, Any]:
    response = {"status_code": status, "request_id": f"req-{number}", "body": body}
    return {"id": f"batch_req_{number}", "custom_id": custom_id, "response": response, "error": error}


def _choice(place: int, completion: Completion, request: BatchRequest, token: Callable[[int], str]) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": place, "finish_reason": completion.finish_reason, "logprobs": None}
    found, listed = completion.log_probabilities, request.options.logprobs
    if listed is not None:
        choice["logprobs"] = (
            chat_log_probabilities(found, token)
            if request.is_chat
            else text_log_probabilities(found, token, offset=0, listed=listed)
        )
    if request.is_chat:
        return choice | {"message": {"role": "assistant", "content": completion.text}}
    return choice | {"text": completion.text}
