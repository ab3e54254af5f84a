"""Leaving clients, slow readers, full queues, keys, and a server that is told to end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import nullcontext

import httpx
import pytest
from support.observing import Recorder, wait_until
from support.served import served

from flyweight import load
from flyweight.demo_model import model_path
from flyweight.serving.limits import ServerLimits
from flyweight.serving.options import ServeOptions

LONG = {"prompt": "The opposite of hot is", "max_tokens": 400, "ignore_eos": True, "temperature": 0}


def metrics(server):
    return next(iter(server.state.services.values())).metrics


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_blocks(stream):
    recorder = Recorder()
    with served(observers=[recorder]) as server:
        with (
            pytest.raises(httpx.ReadTimeout) if not stream else nullcontext(),
            httpx.stream(
                "POST", f"{server.url}/v1/completions", json={**LONG, "n": 16, "stream": stream}, timeout=0.5
            ) as answer,
        ):
            next(answer.iter_lines())
        wait_until(lambda: len(recorder.named("Finished")) == 16)
        assert {one.outcome for one in recorder.named("Finished")} == {"abort"}
        wait_until(lambda: metrics(server).held_blocks == 0)


def test_a_slow_reader_holds_nobody_up():
    limits = ServerLimits(reader_seconds=0.3)
    with served(limits=limits) as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = json.dumps({**LONG, "n": 8, "stream": True, "logprobs": 20, "echo": True}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port))) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.sendall(head.encode() + body)  # and nothing is read
            with server.client() as client:
                answer = client.post("/v1/completions", json={**LONG, "max_tokens": 20})
                assert answer.json()["usage"]["completion_tokens"] == 20
            wait_until(lambda: metrics(server).running == 0, 20)


def test_a_full_queue_says_when_to_come_again():
    recorder = Recorder()
    with served(limits=ServerLimits(queued_requests=2, answers=256), observers=[recorder]) as server:
        statuses = []

        def ask():
            answer = httpx.post(f"{server.url}/v1/completions", json={**LONG, "n": 32, "max_tokens": 16}, timeout=60)
            statuses.append((answer.status_code, answer.headers.get("retry-after")))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [after for status, after in statuses if status == 503]
        assert refused
        assert all(int(after) >= 1 for after in refused)
        assert len(refused) + sum(status == 200 for status, _ in statuses) == 8
        assert len(recorder.named("Rejected")) == len(refused)
        assert {one.reason for one in recorder.named("Rejected")} == {"queue_full"}


def test_observers_hear_of_a_whole_request():
    recorder = Recorder()
    with served(observers=[recorder]) as server, server.client() as client:
        request_id = client.post("/v1/completions", json={**LONG, "max_tokens": 5}).headers["x-request-id"]
        wait_until(lambda: recorder.named("Finished"))
        (submitted,), (finished,) = recorder.named("Submitted"), recorder.named("Finished")
        assert submitted.request_id == finished.name.request_id == request_id
        assert finished.outcome == "length"
        assert finished.record.answer_tokens == 5
        assert finished.queued_at <= finished.released_at <= finished.record.first_token <= finished.ended_at
        assert sum(count for step in recorder.named("StepTaken") for _, count in step.answered) == 5
        assert recorder.named("StepTaken")[0].admitted == (finished.name,)


def test_an_observer_that_raises_is_nobodys_fault():
    class Broken(Recorder):
        def on_submitted(self, event):
            raise RuntimeError("broken")

        on_step = on_finished = on_submitted

    with served(observers=[Broken()]) as server, server.client() as client:
        assert client.post("/v1/completions", json={**LONG, "max_tokens": 3}).status_code == 200


KEYED = ServeOptions(port=0, api_key=("alice=alice-secret", "bob=bob-secret-1"))


def test_every_route_but_health_readiness_and_the_page_needs_a_key():
    """The page's own files are the package's, the same for everybody; all that it shows comes from guarded routes."""
    scripts = ("api", "app", "chat", "engine", "events", "format", "plots")
    page = {"/", "/page/icon.svg", "/page/style.css", *(f"/page/{name}.js" for name in scripts)}
    with served(options=KEYED) as server, server.client() as stranger:
        document = stranger.get("/openapi.json", headers={"authorization": "Bearer alice-secret"}).json()
        for path, methods in document["paths"].items():
            for method in methods:
                status = stranger.request(method, path.replace("{id}", "x")).status_code
                assert status == (200 if path in {"/health", "/ready", *page} else 401), (method, path)
        for header in ({"authorization": "Bearer alice-secret"}, {"x-api-key": "bob-secret-1"}):
            assert stranger.get("/v1/models", headers=header).status_code == 200
        wrong = stranger.get("/v1/models", headers={"authorization": "Bearer alice-secre"})
        assert wrong.status_code == 401
        assert wrong.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "target",
    ["//v1/models", "/v1//models", "/%76%31/models", "/health/../v1/models", "/health%2f..%2fv1/models", "/v1/models/",
     "/V1/models", "/health/", "/health%00", "http://x/health", "/v1/models?path=/health", "/%68ealth", "*"],
)  # fmt: skip
def test_no_spelling_of_a_path_passes_the_guard(keyed, target):
    host, port = keyed.url.removeprefix("http://").split(":")
    for name in (host, "health", "localhost/health", "x/../health"):
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            plain.sendall(f"GET {target} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            status = plain.recv(64).split(b" ")[1]
        assert status in (b"400", b"401"), (target, name, status)


@pytest.fixture(scope="module")
def keyed():
    with served(options=KEYED) as found:
        yield found


def test_a_prefix_is_not_shared_between_keys(keyed):
    ask = {"prompt": "A long beginning that several people have. " * 6, "max_tokens": 1}

    def cached(key):
        with keyed.client(authorization=f"Bearer {key}") as client:
            usage = client.post("/v1/completions", json=ask).json()["usage"]
            return usage["prompt_tokens_details"]["cached_tokens"]

    assert cached("alice-secret") == 0
    assert cached("alice-secret") > 0
    assert cached("bob-secret-1") == 0


def test_large_headers_and_bodies_are_refused():
    with served(limits=ServerLimits(body_bytes=1000, header_count=20)) as server, server.client() as client:
        large = client.post("/v1/completions", json={"prompt": "x" * 2000})
        assert large.status_code == 413
        many = client.get("/v1/models", headers={f"x-{number}": "1" for number in range(30)})
        assert many.status_code == 431
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000)
            assert plain.recv(100).split(b" ")[1:2] in ([b"400"], [b"431"], [])
        assert client.get("/health").status_code == 200


def test_a_lenient_server_lists_what_it_left_out():
    with served(options=ServeOptions(port=0, lenient=True)) as server, server.client() as client:
        found = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1, "guided_json": {}}).json()
        assert found["warnings"] == ["guided_json is not known and was not used"]
        nested = {"messages": [{"role": "user", "content": "x", "colour": 1}], "max_tokens": 1, "stream": True}
        assert "messages[0].colour is not known" in client.post("/v1/chat/completions", json=nested).text
        assert client.post("/v1/completions", json={"prompt": "x", "n": "1"}).status_code == 400


def test_draining_finishes_what_runs_and_refuses_what_comes():
    """The engine stands still from the signal until everything was asked, so that nothing ends too early."""
    model = load(model_path())
    forward, goes_on = model.forward, threading.Event()
    goes_on.set()
    model.forward = lambda batch: forward(batch) if goes_on.wait(20) else None
    with served({"demo": model}, options=ServeOptions(port=0, drain_seconds=20)) as server:
        with server.client() as client, client.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as one:
            lines = one.iter_lines()
            next(lines)
            with server.client() as other:
                gauges = ("flyweight:draining 0.0", 'flyweight:model_loaded{engine="0",model_name="demo"} 1.0')
                assert set(gauges) <= {*other.get("/metrics").text.splitlines()}
            goes_on.clear()
            server.end()
            with server.client() as other:
                wait_until(lambda: other.get("/ready").status_code == 503)
                assert other.get("/ready").json()["reasons"] == {"server": "it is shutting down"}
                assert other.get("/health").status_code == 200
                refused = other.post("/v1/completions", json=LONG)
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "draining"
                assert int(refused.headers["retry-after"]) >= 1
                gauges = ("flyweight:draining 1.0", 'flyweight:model_loaded{engine="0",model_name="demo"} 0.0')
                assert set(gauges) <= {*other.get("/metrics").text.splitlines()}
            goes_on.set()
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""]
        server.thread.join(20)
        assert not server.thread.is_alive()


def test_what_does_not_end_in_time_is_cut_off_with_an_error():
    with served(options=ServeOptions(port=0, drain_seconds=0)) as server, server.client() as client:
        with client.stream("POST", "/v1/completions", json={**LONG, "n": 32, "stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.end()
            text = "\n".join(lines)
        assert '"code":"shutdown"' in text
        server.thread.join(20)
        assert not server.thread.is_alive()


def test_the_command_ends_with_0_after_sigterm():
    environment = {**os.environ, "FLYWEIGHT_SERVE_PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "flyweight", "serve", "demo"], stderr=subprocess.PIPE, text=True, env=environment
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "serving on http" in line:
            url = line.split()[-1]
            break
    else:
        raise AssertionError("".join(lines))
    assert httpx.get(f"{url}/ready").status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stderr.close()
