"""The gate by itself, on raw requests: which paths are open, and how large a body may become. Behind it is an
application that says what reached it, so that no route, parser or web server stands in for a bound of the gate."""

import asyncio
import json

import pytest

from flyweight.serving.http.middleware import OPEN_PATHS, Gate
from flyweight.serving.keys import KeyRing
from flyweight.serving.limits import ServerLimits

KEY = "alice-secret"
CHUNK = 1 << 16


async def reached(scope, receive, send):
    """Reads the whole body, and answers with its size."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps({"size": size}).encode()})


def ask(path=b"/v1/models", *, headers=(), body=(b"",), limits=None, decoded=None):
    """The status, the body, and how many pieces of the request's body were read."""
    gate = Gate(reached, keys=KeyRing([KEY]), is_allowed_host=lambda _host: True, limits=limits or ServerLimits())
    scope = {
        "type": "http",
        "method": "POST",
        "path": path.decode("latin-1") if decoded is None else decoded,
        "raw_path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *headers],
    }
    sent, given, taken = [], iter(body), 0

    async def receive():
        nonlocal taken
        taken += 1
        piece = next(given, None)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": taken < len(body)}

    async def send(message):
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], b"".join(one.get("body", b"") for one in sent[1:]), taken


def test_only_health_readiness_and_the_page_are_open():
    assert {b"/health", b"/ready", b"/"} <= OPEN_PATHS
    assert all(path.startswith(b"/page/") for path in OPEN_PATHS - {b"/health", b"/ready", b"/"})
    for path in OPEN_PATHS:
        assert ask(path)[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/healthz", "/healthz-anything", "/health-check", "/health.json", "/health/", "/health/x", "/health/../v1/models",
     "/health/..%2fv1/models", "/health;x", "/health%00", "/health%20", "/health?x", "//health", "/./health", "/Health",
     "/HEALTH", "health", "/x/health", "/ready/", "/readyz", "/ready/../metrics", "/page", "/page/", "/page/x.js",
     "/page/../v1/models", "/page/app.js/", "/page/app.json", "", "*", "/v1/models", "/metrics", "/version"],
)  # fmt: skip
def test_a_path_that_only_begins_like_an_open_one_is_not_open(path):
    status, body, _ = ask(path.encode())
    assert status == 401
    assert json.loads(body)["error"]["code"] == "invalid_api_key"
    assert ask(path.encode(), headers=[(b"authorization", f"Bearer {KEY}".encode())])[0] == 200


def test_a_path_that_is_an_open_one_only_when_decoded_is_not_open():
    assert ask(b"/%68ealth", decoded="/health")[0] == 401
    assert ask(b"/v1/%2e%2e/health", decoded="/v1/../health")[0] == 401
    assert ask(b"/health", decoded="/v1/models")[0] == 401


def test_a_body_that_says_that_it_is_too_large_is_not_read():
    most = ServerLimits().body_bytes
    status, body, taken = ask(b"/health", headers=[(b"content-length", b"%d" % 10_000_000)], body=[b"x"])
    assert (status, taken) == (413, 0)
    assert str(most) in json.loads(body)["error"]["message"]
    assert ask(b"/health", headers=[(b"content-length", b"%d" % (most + 1))])[0] == 413
    assert ask(b"/health", headers=[(b"content-length", b"%d" % most)])[0] == 200


def test_a_body_that_becomes_too_large_is_read_no_further():
    """10 MB in pieces, without a length."""
    most = ServerLimits().body_bytes
    assert most == 8_388_608
    status, _, taken = ask(b"/health", body=[b"x" * CHUNK] * (10_000_000 // CHUNK))
    assert status == 413
    assert taken == most // CHUNK + 1
    whole = [b"x" * CHUNK] * (most // CHUNK)
    status, body, _ = ask(b"/health", body=whole)
    assert (status, json.loads(body)["size"]) == (200, most)
    assert ask(b"/health", body=[*whole, b"x"])[0] == 413
