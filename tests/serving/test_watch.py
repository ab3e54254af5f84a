"""What a running server tells of itself: metrics, state, timelines and log lines of real requests."""

import json
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.served import served

from flyweight import load
from flyweight.demo_model import model_path
from flyweight.serving.log_sink import LogSink
from flyweight.serving.metric_names import METRICS
from flyweight.serving.options import ServeOptions

SECRET = "Xyzzy-the-words-of-the-prompt"
ALICE, BOB = "alice-key-12345", "bob-key-12345678"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "requests"


@pytest.fixture(scope="module")
def server(log):
    options = ServeOptions(port=0, api_key=(f"alice={ALICE}", f"bob={BOB}"), log_format="json")
    with log.open("wb") as file:
        sink = LogSink(file.fileno())
        with served({"demo": load(model_path())}, options, sink=sink) as found:
            yield found
        sink.close()


def as_(server, key):
    return server.client(Authorization=f"Bearer {key}")


def ask(client, **changes):
    body = {"model": "demo", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 5, **changes}
    answer = client.post("/v1/chat/completions", json=body)
    return answer.headers["X-Request-Id"], answer


def samples(client):
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def test_counts_of_real_requests(server):
    with as_(server, ALICE) as client:
        before = samples(client)
        usages = [ask(client, seed=number)[1].json()["usage"] for number in range(3)]
        ask(client, n=3)
        after = samples(client)

    def grown(name, *labels):
        key = (name, *sorted(("demo", "0", *labels)))
        return after[key] - before.get(key, 0)

    assert grown("vllm:e2e_request_latency_seconds_count") == 6
    assert grown("vllm:time_to_first_token_seconds_count") == 6
    assert grown("vllm:request_params_n_sum") == 6
    assert grown("vllm:generation_tokens_total") == grown("vllm:request_generation_tokens_sum")
    assert grown("vllm:inter_token_latency_seconds_count") == grown("vllm:generation_tokens_total") - 6
    assert grown("vllm:prompt_tokens_total") == 6 * usages[0]["prompt_tokens"]
    computed = grown("vllm:prompt_tokens_by_source_total", "local_compute")
    cached = grown("vllm:prompt_tokens_by_source_total", "local_cache_hit")
    assert computed + cached == grown("vllm:prompt_tokens_total")
    assert grown("vllm:prefix_cache_hits_total") == cached
    assert grown("flyweight:served_tokens_total", "alice") == computed + grown("vllm:generation_tokens_total")
    assert after[("vllm:num_requests_running", "0", "demo")] == 0
    text = json.dumps([str(key) for key in after])
    assert ALICE not in text
    assert SECRET not in text


def test_every_per_model_metric_names_its_model(server):
    with as_(server, ALICE) as client:
        families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    for metric in METRICS:
        if metric.per_model and metric.name in families:
            for sample in families[metric.name].samples:
                assert sample.labels["model_name"] == "demo", metric.name
                assert sample.labels["engine"] == "0"


def test_prometheus_gets_the_names_with_their_colons(server):
    """Prometheus asks for OpenMetrics first, in which the client library would write vllm_ for vllm: ."""
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    with as_(server, ALICE) as client:
        answer = client.get("/metrics", headers={"Accept": accept + "text/plain;version=1.0.0;q=0.3,*/*;q=0.2"})
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\nvllm:num_requests_running{" in answer.text
    assert "vllm_" not in answer.text


def test_a_timeline_is_its_owners(server):
    with as_(server, ALICE) as alice, as_(server, BOB) as bob, server.client() as nobody:
        name, answer = ask(alice)
        told = alice.get(f"/v1/requests/{name}/timeline").json()
        (one,) = told["answers"]
        assert one["outcome"] in ("stop", "length")
        assert one["answer_tokens"] == answer.json()["usage"]["completion_tokens"]
        assert sum(chunk["tokens"] for chunk in one["chunks"]) + one["cached_tokens"] == one["prompt_tokens"]
        assert one["total_seconds"] >= one["queue_seconds"] + one["prefill_seconds"] + one["decode_seconds"] - 1e-6
        assert SECRET not in json.dumps(told)
        unknown = alice.get("/v1/requests/req-unknown/timeline")
        foreign = bob.get(f"/v1/requests/{name}/timeline")
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.json()["error"]["message"].replace(name, "req-unknown") == unknown.json()["error"]["message"]
        assert nobody.get(f"/v1/requests/{name}/timeline").status_code == 401


def test_the_state_shows_what_was_just_done(server):
    with as_(server, ALICE) as client:
        ask(client)
        (one,) = client.get("/v1/engine/state").json()["models"]
    assert one["name"] == "demo"
    assert one["status"] == "ready"
    assert (one["running"], one["waiting"]) == (0, 0)
    assert one["time_to_first_token_seconds"] > 0
    assert len(one["history"]["tokens_per_second"]) == 150


def test_log_lines_have_ids_and_no_words(server, log):
    with as_(server, ALICE) as client:
        name, answer = ask(client)
        refused = client.post("/v1/chat/completions", json={"model": SECRET}).headers["X-Request-Id"]
        client.get("/v1/engine/state")
        strange = client.get("/nowhere/" + SECRET).headers["X-Request-Id"]
    deadline = time.monotonic() + 5
    while strange not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (finished,) = [line for line in lines if line["event"] == "finished" and line["id"] == name]
    assert finished["key"] == "alice"
    assert finished["answer_tokens"] == answer.json()["usage"]["completion_tokens"]
    by_id = {line["id"]: line for line in lines if line["event"] == "http"}
    assert (by_id[name]["route"], by_id[name]["status"]) == ("/v1/chat/completions", 200)
    assert by_id[refused]["status"] == 400
    assert (by_id[strange]["route"], by_id[strange]["status"]) == ("unknown", 404)
    assert not any(line.get("route") == "/v1/engine/state" for line in lines), "what is asked every second is no line"
    assert SECRET not in log.read_text()
    assert ALICE not in log.read_text()


def test_a_full_disk_ends_no_request():
    with open("/dev/full", "wb") as full:
        sink = LogSink(full.fileno())
        with served({"demo": load(model_path())}, ServeOptions(port=0), sink=sink) as found, found.client() as client:
            for _ in range(3):
                assert ask(client)[1].status_code == 200
            deadline = time.monotonic() + 5
            while sink.dropped < 6 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert samples(client)[("flyweight:request_log_lines_lost_total",)] >= 6
            assert client.get("/health").status_code == 200
        sink.close()
