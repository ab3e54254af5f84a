"""What holds for every answer, whatever was asked: no fault of the server, errors in one form, none of its insides."""

import re
from collections.abc import Collection

from flyweight.errors import UsageError
from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.target import Answer, Target

LONGEST_ANSWER = 30.0  # seconds
INSIDES = re.compile(
    rb"Traceback|File \\?\"|site-packages|\.py\b|0x[0-9a-fA-F]{6,}|object at 0x|pydantic|starlette|uvicorn|orjson"
    rb"|(?<![\w.])/(?:usr|home|root|work|opt|tmp|var|etc)/",
)
CONTROL = {"model": None, "messages": [{"role": "user", "content": "2 + 2 ="}], "temperature": 0, "max_tokens": 8}


def judge(trials: Trials, answer: Answer, tried: str, *, allowed: Collection[int] = ()) -> None:
    """Look at one answer.

    Args:
        allowed: statuses that are right; by default every one that is no fault of the server.
    """
    trials.count += 1
    for fault, wanted in _faults(answer, tried, allowed):
        trials.count -= 1
        trials.expect(False, tried=tried, found=fault, wanted=wanted)
        return


def _faults(answer: Answer, tried: str, allowed: Collection[int]) -> list[tuple[str, str]]:
    faults: list[tuple[str, str]] = []
    is_busy = answer.status in (429, 503) and "retry-after" in answer.headers
    if allowed and answer.status not in allowed and not is_busy:
        faults.append((str(answer), "one of " + ", ".join(map(str, sorted(allowed)))))
    elif answer.status <= 0 or (answer.status >= 500 and not is_busy):
        faults.append((str(answer), "an answer, or an error that is the client's"))
    if answer.seconds > LONGEST_ANSWER:
        faults.append((f"{answer.seconds:.1f} s", f"an answer within {LONGEST_ANSWER:g} s"))
    if answer.status >= 400:
        if not is_error_object(answer):
            faults.append((f"{answer.status} {answer.body[:80]!r}", "an error object"))
        inside = INSIDES.search(answer.body)
        if inside is not None and inside[0].decode("latin-1") not in tried:  # a client's own words are not a leak
            faults.append((f"the error says {inside[0]!r}", "no path, address or trace"))
    return faults


def is_error_object(answer: Answer) -> bool:
    """Whether the body is {"error": {"message", "type", "param", "code"}}."""
    found = answer.json()
    error = found.get("error") if isinstance(found, dict) else None
    return (
        isinstance(error, dict)
        and {"message", "type", "param", "code"} <= set(error)
        and isinstance(error["message"], str)
        and bool(error["message"])
        and isinstance(error["type"], str)
        and answer.headers.get("content-type", "").startswith("application/json")
    )


def control_answer(target: Target) -> str:
    """What a harmless request gets: the same before and after every attack.

    Raises:
        UsageError: when it gets nothing, so that there is nothing to compare with.
    """
    answer = target.post("/v1/chat/completions", {name: value for name, value in CONTROL.items() if value is not None})
    found = answer.json()
    try:
        return str(found["choices"][0]["message"]["content"])
    except (TypeError, KeyError, IndexError):
        raise UsageError(f"a harmless request was not answered: {answer}") from None


def expect_alive(trials: Trials, target: Target, before: str, after_what: str) -> None:
    """The server is well and answers as it did."""
    for path in ("/health", "/ready"):
        answer = target.ask("GET", path, key="")
        trials.expect(answer.status == 200, tried=f"{path} after {after_what}", found=str(answer), wanted="200")
    try:
        now = control_answer(target)
    except UsageError as error:
        now = str(error)
    trials.expect(now == before, tried=f"a harmless request after {after_what}", found=now, wanted=before)
