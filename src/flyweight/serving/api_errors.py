"""What a client is told when a request fails: one error object for all routes, in the form of OpenAI's API.

A message names what was given and what is allowed. It never holds a path of this machine, an address or a trace:
what is not the client's fault is logged under the request's id, and the client gets the id.
"""

import math
from http import HTTPStatus
from typing import Any

INVALID, AUTHENTICATION, PERMISSION = "invalid_request_error", "authentication_error", "permission_error"
NOT_FOUND, RATE_LIMIT, SERVER, UNAVAILABLE = "not_found_error", "rate_limit_error", "server_error", "unavailable_error"
CONTEXT_LENGTH = "context_length_exceeded"

LONGEST_MESSAGE = 2000
TYPES = {401: AUTHENTICATION, 403: PERMISSION, 404: NOT_FOUND, 429: RATE_LIMIT, 500: SERVER, 503: UNAVAILABLE}


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP, 400 to 599.
        message: one or two sentences for the client.
        param: the field at fault, such as ``messages[0].content``.
        code: a short name that programs branch on, such as ``context_length_exceeded``.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = clean(message)
        self.param = None if param is None else clean(param)
        self.code = code
        self.type = TYPES.get(status, INVALID if status < 500 else SERVER)
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))

    def body(self) -> dict[str, Any]:
        """The error object. ``code`` is a name where there is one, else the status in words. The outer ``type`` is what
        Anthropic's clients look for; OpenAI's do not mind it."""
        code = self.code or HTTPStatus(self.status).phrase.lower().replace(" ", "_")
        return {
            "type": "error",
            "error": {"message": self.message, "type": self.type, "param": self.param, "code": code},
        }


def internal_error(request_id: str) -> ApiError:
    """What is told of a fault of ours."""
    return ApiError(500, f"the server failed at this request; its log says more under {request_id}", code="internal")


def clean(text: str) -> str:
    """Text that may hold a client's own words, fit to be sent back: valid Unicode, no control characters, short."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = "".join(one if one.isprintable() else " " for one in text[: LONGEST_MESSAGE + 1])
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 3] + "..."
