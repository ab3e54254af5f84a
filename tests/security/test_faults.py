"""An engine that hangs and a client that never reads: nobody else is held up, and health says the truth. Faults that
end one request stand in test_faults_beside_neighbours.py."""

import json
import socket
import threading
import time

import pytest
from support.served import served

from flyweight import load
from flyweight.demo_model import model_path
from flyweight.serving.limits import ServerLimits

GOOD = {"messages": [{"role": "user", "content": "2 + 2 ="}], "temperature": 0, "max_tokens": 8}


def require(holds: bool, what: object) -> None:
    """As assert, under ``python -O`` too."""
    if not holds:
        pytest.fail(str(what))


@pytest.fixture
def server():
    model = load(model_path())
    with served({"demo": model}, limits=ServerLimits(stall_seconds=0.5)) as found:
        found.model = model
        yield found


def answers(server, *bodies: dict) -> list:
    """Ask all at once."""
    found = [None] * len(bodies)

    def ask(place: int) -> None:
        with server.client() as client:
            found[place] = client.post("/v1/chat/completions", json=bodies[place])

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def text(answer) -> str:
    return answer.json()["choices"][0]["message"]["content"]


def status(server, path: str) -> int:
    with server.client() as client:
        return client.get(path).status_code


def clean(server) -> None:
    """Nothing is held, nothing contradicts itself, and the server is well."""
    service = server.state.services["demo"]
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and (service.metrics.running or service.metrics.waiting):
        time.sleep(0.01)
    service._worker.run(lambda engine: engine.check_integrity()).result(5)
    held = service._worker.run(lambda engine: engine.metrics().held_blocks).result(5)
    require(held == 0, f"{held} blocks held")
    require(status(server, "/health") == 200 and status(server, "/ready") == 200, "health")


def test_engine_that_hangs_is_reported(server, monkeypatch):
    goes_on = threading.Event()
    real = server.model.forward

    def forward(batch):
        goes_on.wait(20)
        return real(batch)

    monkeypatch.setattr(server.model, "forward", forward)
    waiting = threading.Thread(target=answers, args=(server, GOOD))
    waiting.start()
    deadline = time.monotonic() + 10
    while status(server, "/health") != 503:
        require(time.monotonic() < deadline, "/health says 200 although no step is made")
        time.sleep(0.05)
    goes_on.set()
    waiting.join(20)
    clean(server)


def test_client_that_never_reads_holds_nobody_up(server):
    (before,) = answers(server, GOOD)
    long = {"stream": True, "max_tokens": 400, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
    body = json.dumps({**GOOD, **long})
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.connect((host, int(port)))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall((head + f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
        (now,) = answers(server, GOOD)
        require(text(now) == text(before), now.text)
        require(status(server, "/health") == 200, "health")
    clean(server)
