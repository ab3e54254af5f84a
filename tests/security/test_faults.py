"""Faults put into a running server: each ends its own request at most, and health says the truth."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from support.served import served

import flyweight
from flyweight import load
from flyweight.demo_model import model_path
from flyweight.engine import sampling
from flyweight.errors import KernelError
from flyweight.serving.doctor.own_server import own_server
from flyweight.serving.limits import ServerLimits

GOOD = {"messages": [{"role": "user", "content": "2 + 2 ="}], "temperature": 0, "max_tokens": 8}
MARKED = "BREAK"
BAD = {**GOOD, "messages": [{"role": "user", "content": MARKED}]}


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


def one_fails(server, bad: dict = BAD) -> None:
    """The bad request gets an error object, its neighbours what they always get."""
    (before,) = answers(server, GOOD)
    first, failed, second = answers(server, GOOD, bad, GOOD)
    require(failed.status_code in (400, 500) and failed.json()["error"]["message"], failed.text)
    require("Traceback" not in failed.text and ".py" not in failed.text, failed.text)
    require(text(first) == text(second) == text(before), (first.text, second.text))
    clean(server)


def test_sampler_that_raises(server, monkeypatch):
    real = sampling.kernels.sample

    def sample(logits, rules):
        if any(rule.temperature == 1.75 for rule in rules):
            raise RuntimeError("a fault put in")
        return real(logits, rules)

    monkeypatch.setattr(sampling.kernels, "sample", sample)
    one_fails(server, {**BAD, "temperature": 1.75})


def test_detokenizer_that_raises(server, monkeypatch):
    prepare = type(server.model).ask

    def ask(self, prompt, options=None, **more):
        asked = prepare(self, prompt, options, **more)
        if asked.request.options.stop == ("never",):
            for answer in asked.answers:
                monkeypatch.setattr(answer, "read", _raise)
        return asked

    monkeypatch.setattr(type(server.model), "ask", ask)
    one_fails(server, {**BAD, "stop": ["never"]})


def _raise(*_given, **_named):
    raise RuntimeError("a fault put in")


@pytest.mark.parametrize("method", ["render_chat", "encode"])
def test_template_or_tokenizer_that_raises(server, monkeypatch, method):
    tokenizer = type(server.model.tokenizer)
    real = getattr(tokenizer, method)

    def broken(self, given, **more):
        if MARKED in str(given):
            raise RuntimeError("a fault put in")
        return real(self, given, **more)

    monkeypatch.setattr(tokenizer, method, broken)
    one_fails(server)


def test_grammar_that_raises(server):
    one_fails(server, {**BAD, "structured_outputs": {"regex": "["}})


@pytest.mark.parametrize("fault", ["nan", "kernel"])
def test_forward_pass_that_is_broken_for_one(server, monkeypatch, fault):
    marker = server.model.tokenizer.encode(MARKED, add_special_tokens=False)[-1]
    real = server.model.forward

    def forward(batch):
        logits = real(batch)
        if marker in np.asarray(batch.token_ids) or forward.is_broken:
            if fault == "kernel":
                raise KernelError("a fault put in")
            logits = logits.copy()
            logits[:] = np.nan
        return logits

    forward.is_broken = False
    monkeypatch.setattr(server.model, "forward", forward)
    (failed,) = answers(server, BAD)
    require(failed.status_code >= 400, failed.text)
    (after,) = answers(server, GOOD)
    require(after.status_code == 200, after.text)
    clean(server)


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


def test_sigterm_in_mid_stream_lets_the_stream_end():
    with own_server() as (target, process):
        body = json.dumps({**GOOD, "stream": True, "max_tokens": 300, "ignore_eos": True}).encode()
        with target.connect(30) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {target.key}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            seen = connection.recv(65536)
            process.send_signal(signal.SIGTERM)
            while more := connection.recv(65536):
                seen += more
                if b"[DONE]" in seen:
                    break
        require(b"data: [DONE]" in seen and b'"finish_reason":"length"' in seen, seen[-300:])
        require(process.wait(30) == 0, "exit code")


def test_full_disk_for_the_log_ends_no_request(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    source = os.path.dirname(os.path.dirname(flyweight.__file__))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": source}
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "flyweight", "serve", "demo", "--port", str(port)],
            stdout=full,
            stderr=full,
            env=environment,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                found = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=GOOD, timeout=30)
                break
            except httpx.ConnectError:
                require(time.monotonic() < deadline and process.poll() is None, "the server ended")
                time.sleep(0.1)
        require(found.status_code == 200, found.text)
        require(httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200, "health")
    finally:
        process.terminate()
        process.wait(30)
