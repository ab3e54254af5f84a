"""Getting to know a server before it is measured: who it is, which models it has, and which stream options it knows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flyweight.bench.load.asks import PATHS, Ask, BodyWriter
from flyweight.bench.load.client import AnswerClient
from flyweight.bench.load.http_client import HttpClient
from flyweight.bench.load.options import LoadOptions
from flyweight.bench.load.recording import RequestRecord
from flyweight.bench.load.sse import StreamError
from flyweight.errors import UsageError, nearest

GREETING = Ask(prompt="Hello", output_tokens=2)
MOST_FACTS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """``facts`` are what ``/version`` and the model's card in ``/v1/models`` say, as text."""

    model: str
    facts: Mapping[str, str]
    writer: BodyWriter


async def meet(http: HttpClient, url: str, options: LoadOptions) -> Server:
    """Ask the server who it is, and try one request.

    Raises:
        UsageError: no server, no such model, a key is wanted, or the request is refused; the message says which.
    """
    try:
        facts = await _version(http)
        model, card = await _model(http, options)
        facts |= card
        writer = BodyWriter(
            model=model,
            endpoint=options.endpoint,
            temperature=options.temperature,
            ignore_eos=options.ignore_eos,
            extra=options.extra_fields(),
        )
        writer = await _try(http, writer, options)
    except (OSError, StreamError) as error:
        raise UsageError(f"no server answers at {url}: {error}; start it, or check the address") from error
    return Server(model=model, facts=facts, writer=writer)


async def _version(http: HttpClient) -> dict[str, str]:
    status, answer = await http.get("/version")
    found = _object(answer) if status == 200 else {}
    return {f"version: {name}" if name != "version" else name: text for name, text in _texts(found)}


async def _model(http: HttpClient, options: LoadOptions) -> tuple[str, dict[str, str]]:
    """The model's name and the facts of its card."""
    status, answer = await http.get("/v1/models")
    _refuse_key(status, options)
    found = _object(answer).get("data") if status == 200 else None
    cards = (
        {str(card["id"]): card for card in found or () if isinstance(card, dict) and "id" in card}
        if isinstance(found, list)
        else {}
    )
    if options.model is None:
        if not cards:
            raise UsageError(f"the server lists no models (/v1/models answers {status}); name one with --model")
        model = next(iter(cards))
    else:
        model = options.model
        if cards and model not in cards:
            raise UsageError(f"the server has no model {model!r}; it lists {', '.join(cards)}{nearest(model, cards)}")
    card = {
        name: value for name, value in cards.get(model, {}).items() if name not in ("permission", "object", "created")
    }
    return model, {f"model {name}": text for name, text in _texts(card)}


async def _try(http: HttpClient, writer: BodyWriter, options: LoadOptions) -> BodyWriter:
    """The fullest form of a body that the server takes."""
    refusal = RequestRecord(number=0, scheduled=0.0)
    for one in (writer, writer.without(usage=True), writer.without(usage=False)):
        client = AnswerClient(http, one, timeout=options.timeout)
        refusal = RequestRecord(number=0, scheduled=0.0)
        await client.answer(client.encode(GREETING), refusal)
        if not refusal.failure:
            return one
        _refuse_key(refusal.status, options)
        if refusal.status not in (400, 422):
            break
    if refusal.failure == "status" and refusal.status in (429, 503):
        return writer  # too busy to be tried now; the run itself will tell
    hint = ""
    if refusal.status in (400, 422):
        hint = "; options that it may not know: --no-ignore-eos leaves out ignore_eos, and see --extra-body"
    elif refusal.status == 404:
        other = "chat" if writer.endpoint == "completions" else "completions"
        hint = f"; it may have no {PATHS[writer.endpoint]}: try --endpoint {other}"
    raise UsageError(f"the server refuses a request of two tokens: {refusal.error}{hint}")


def _refuse_key(status: int, options: LoadOptions) -> None:
    if status in (401, 403):
        raise UsageError(
            f"the server wants another API key (status {status}); put it into the environment variable "
            f"{options.api_key_variable}, or name another one with --api-key-variable"
        )


def _object(answer: bytes) -> dict[str, Any]:
    try:
        found = json.loads(answer)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _texts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and short texts of values; nested ones as JSON."""
    return [
        (str(name)[:60], (value if isinstance(value, str) else json.dumps(value))[:300])
        for name, value in list(found.items())[:MOST_FACTS]
        if value is not None
    ]
