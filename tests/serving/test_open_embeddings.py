"""Embeddings wait, are bounded, counted, logged and ended as answers are."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from support.observing import Recorder, wait_until
from support.served import served

from flyweight import load
from flyweight.demo_model import model_path
from flyweight.engine.options import EngineOptions
from flyweight.errors import ResourceError
from flyweight.serving.limits import ServerLimits
from flyweight.serving.options import ServeOptions

OPTIONS = ServeOptions(port=0, embeddings="mean")
LOOKAHEAD = 2  # prompts that the engine is given beyond its places


def service_of(server):
    return next(iter(server.state.services.values()))


def one_place():
    """A model whose engine runs one answer at a time."""
    return {"demo": load(model_path(), engine=EngineOptions(max_sequences=1))}


@contextmanager
def held(server):
    """The engine's thread stands still inside."""
    gate = threading.Event()
    service_of(server)._worker.run(lambda _engine: gate.wait(20))
    try:
        yield
    finally:
        gate.set()


def ask(server, texts="A cat", timeout=20.0, **headers):
    return httpx.post(f"{server.url}/v1/embeddings", json={"input": texts}, timeout=timeout, headers=headers)


def test_observers_metrics_and_timeline_hear_of_every_text():
    recorder = Recorder()
    with served(options=OPTIONS, observers=[recorder]) as server, server.client() as client:
        answer = client.post("/v1/embeddings", json={"input": ["A cat", "A cat sat down."]})
        name = answer.headers["x-request-id"]
        (submitted,) = recorder.named("Submitted")
        assert sum(submitted.prompt_tokens) == answer.json()["usage"]["prompt_tokens"]
        finished = recorder.named("Finished")
        assert [one.name.prompt for one in finished] == [0, 1]
        for one in finished:
            assert (one.name.request_id, one.outcome, one.is_embedding) == (name, "stop", True)
            assert one.queued_at <= one.released_at <= one.record.began <= one.ended_at
        exposed = client.get("/metrics").text
        assert 'flyweight:embedded_texts_total{engine="0",model_name="demo"} 2.0' in exposed
        assert f'vllm:prompt_tokens_total{{engine="0",model_name="demo"}} {sum(submitted.prompt_tokens)}.0' in exposed
        assert 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="demo"} 2.0' in exposed
        timeline = client.get(f"/v1/requests/{name}/timeline").json()
        assert [one["outcome"] for one in timeline["answers"]] == ["stop", "stop"]
        assert timeline["answers"][0]["prefill_seconds"] > 0


def test_a_key_with_too_much_open_is_refused():
    recorder = Recorder()
    limits = ServerLimits(requests_per_key=3)
    with served(options=OPTIONS, limits=limits, observers=[recorder]) as server, ThreadPoolExecutor(1) as pool:
        with held(server):
            first = pool.submit(ask, server, ["a", "b"])
            wait_until(lambda: len(recorder.named("Submitted")) == 1)
            refused = ask(server, ["c", "d"])
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert int(refused.headers["retry-after"]) >= 1
            assert [one.reason for one in recorder.named("Rejected")] == ["rate_limit_exceeded"]
        assert first.result().status_code == 200
        assert ask(server, ["c", "d"]).status_code == 200


def test_tokens_of_a_key_are_bounded_together_with_its_answers():
    with served(options=OPTIONS, limits=ServerLimits(tokens_per_key=40)) as server, ThreadPoolExecutor(1) as pool:
        body = {"prompt": "A cat", "max_tokens": 30, "ignore_eos": True}
        with held(server):
            answer = pool.submit(httpx.post, f"{server.url}/v1/completions", json=body, timeout=20)
            wait_until(lambda: service_of(server)._admission.running == 1)
            assert ask(server, "The opposite of hot is cold. " * 3).status_code == 429
        assert answer.result().status_code == 200


def test_a_full_queue_says_when_to_come_again():
    recorder, limits = Recorder(), ServerLimits(queued_requests=2)
    with served(one_place(), OPTIONS, limits, observers=[recorder]) as server, ThreadPoolExecutor(8) as pool:
        room = 1 + LOOKAHEAD + limits.queued_requests
        with held(server):
            taken = []
            for number in range(room):  # one after another: those that are being prepared are bounded too
                taken.append(pool.submit(ask, server))
                wait_until(lambda number=number: len(recorder.named("Submitted")) > number)
            assert service_of(server).queued == limits.queued_requests
            refused = ask(server)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "queue_full"
            assert int(refused.headers["retry-after"]) >= 1
        assert [one.result().status_code for one in taken] == [200] * room


def test_what_waits_too_long_is_ended():
    limits = ServerLimits(queue_seconds=0.3)
    with served(one_place(), OPTIONS, limits) as server, ThreadPoolExecutor(8) as pool:
        with held(server):
            asked = [pool.submit(ask, server) for _ in range(1 + LOOKAHEAD + 1)]
            wait_until(lambda: any(one.done() for one in asked))
            (late,) = [one for one in asked if one.done()]
            assert late.result().status_code == 503
            assert late.result().json()["error"]["code"] == "queue_timeout"
        assert sorted(one.result().status_code for one in asked) == [200, 200, 200, 503]


def test_what_takes_too_long_is_ended():
    with served(options=OPTIONS, limits=ServerLimits(answer_seconds=0.3)) as server:
        with held(server):
            late = ask(server)
            assert late.status_code == 503
            assert late.json()["error"]["code"] == "timeout"
        assert ask(server).status_code == 200


def test_a_client_that_leaves_gives_up_its_texts():
    recorder = Recorder()
    with served(options=OPTIONS, observers=[recorder]) as server:
        with held(server):
            with pytest.raises(httpx.ReadTimeout):
                ask(server, ["a", "b", "c"], timeout=0.3)
            wait_until(lambda: len(recorder.named("Finished")) == 3)
        assert {one.outcome for one in recorder.named("Finished")} == {"abort"}
        assert ask(server).status_code == 200
        assert service_of(server)._admission.running == 0
        assert service_of(server).metrics.held_blocks == 0


def test_a_server_that_ends_lets_them_end_and_takes_no_more():
    with served(options=OPTIONS) as server, ThreadPoolExecutor(1) as pool:
        with held(server):
            asked = pool.submit(ask, server)
            wait_until(lambda: service_of(server)._admission.running == 1)
            server.end()
            wait_until(lambda: service_of(server).unreadiness() is not None)
        assert asked.result().status_code == 200


def test_a_server_that_may_not_wait_longer_ends_them_with_a_reason():
    options = ServeOptions(port=0, embeddings="mean", drain_seconds=0.2)
    with served(options=options) as server, ThreadPoolExecutor(1) as pool, held(server):
        asked = pool.submit(ask, server)
        wait_until(lambda: service_of(server)._admission.running == 1)
        server.end()
        assert asked.result().status_code == 503
        assert asked.result().json()["error"]["code"] == "shutdown"


@pytest.mark.parametrize(
    ("kind", "text", "status", "code"),
    [(ResourceError, "no blocks", 503, "no_room"), (RuntimeError, "secret", 500, "internal")],
)
def test_a_fault_ends_its_own_request_only(monkeypatch, kind, text, status, code):
    recorder = Recorder()
    with served(options=OPTIONS, observers=[recorder]) as server:
        real = "flyweight.serving.open_embeddings.Embedder.embed"
        with monkeypatch.context() as broken:
            broken.setattr(real, lambda *_: (_ for _ in ()).throw(kind(text)))
            answer = ask(server, ["a", "b"])
        assert answer.status_code == status
        assert answer.json()["error"]["code"] == code
        assert "secret" not in answer.text
        assert [one.outcome for one in recorder.named("Finished")] == ["error", "error"]
        assert ask(server).status_code == 200


def test_answers_go_on_between_texts():
    """The engine makes a step between two texts, so that many of them do not stop an answer."""
    recorder = Recorder()
    body = {"prompt": "A cat", "max_tokens": 100, "ignore_eos": True}
    with served(options=OPTIONS, observers=[recorder]) as server, ThreadPoolExecutor(2) as pool:
        with held(server):
            answer = pool.submit(httpx.post, f"{server.url}/v1/completions", json=body, timeout=20)
            wait_until(lambda: service_of(server)._admission.running == 1)
            texts = pool.submit(ask, server, ["A cat sat. " * 20] * 6)
            wait_until(lambda: service_of(server)._admission.running == 7)
        assert answer.result().status_code == texts.result().status_code == 200
    ended = [one for one in recorder.named("Finished") if one.is_embedding]
    steps = [one.ended for one in recorder.named("StepTaken")]
    assert len(ended) == 6
    for before, after in itertools.pairwise(ended):
        assert any(before.record.began < at < after.ended_at for at in steps)
