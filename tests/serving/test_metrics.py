"""What a server counts, under vLLM's names, labels and buckets, and what it costs."""

import time
import tracemalloc

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import serving_events as events
from support.served import served

from flyweight import load
from flyweight.demo_model import model_path
from flyweight.engine.block_pool import PoolStatistics
from flyweight.serving import metric_names as names
from flyweight.serving.metrics import MOST_OWNERS, CacheConfig, Gauges, ModelMetrics, ServerMetrics, WorkerMetrics

LABELS = {"model_name": "demo", "engine": "0"}


@pytest.fixture
def server():
    return ServerMetrics(version="1", kernel_isa="avx2", threads=2)


@pytest.fixture
def model(server):
    return server.model("demo", context_length=100)


@pytest.fixture
def worker(model):
    return WorkerMetrics(model)


def exposed(server):
    """{sample name: {labels: value}} of the text exposition, read by the client library's own parser."""
    text = server.render()[0].decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def value(server, name, **labels):
    return exposed(server)[name][frozenset({**LABELS, **labels}.items())]


def run_one_request(worker):
    """5 prompt tokens, 2 of them found, then 5 answer tokens: one, one, and three from a draft of three."""
    one = events.name()
    prefix = PoolStatistics(queries=5, hits=2, evictions=1)
    worker.on_submitted(events.submitted())
    counts = events.metrics(prefix=prefix, prompt_tokens=5, answer_tokens=1, last_step_tokens=3)
    worker.on_step(events.step(1, 101.0, 102.0, [events.chunk(one, 2, 3)], [(one, 1)], counts=counts))
    counts = events.metrics(prefix=prefix, prompt_tokens=5, answer_tokens=2, last_step_tokens=1)
    worker.on_step(events.step(2, 102.0, 102.5, [events.chunk(one, 5, 1)], [(one, 1)], counts=counts))
    counts = events.metrics(
        prefix=prefix, prompt_tokens=5, answer_tokens=5, draft_tokens=3, accepted_tokens=2, last_step_tokens=4
    )
    worker.on_step(events.step(3, 103.0, 104.0, [events.chunk(one, 6, 4, drafts=3)], [(one, 3)], counts=counts))
    worker.on_finished(events.finished(of_record=events.record(cached_tokens=2, draft_tokens=3, accepted_tokens=2)))


def test_one_request(server, worker):
    run_one_request(worker)
    expected = {
        "vllm:prompt_tokens_total": 5,
        "vllm:generation_tokens_total": 5,
        "vllm:prefix_cache_queries_total": 5,
        "vllm:prefix_cache_hits_total": 2,
        "vllm:prompt_tokens_cached_total": 2,
        "vllm:spec_decode_num_drafts_total": 1,
        "vllm:spec_decode_num_draft_tokens_total": 3,
        "vllm:spec_decode_num_accepted_tokens_total": 2,
        "vllm:request_prompt_tokens_sum": 5,
        "vllm:request_generation_tokens_sum": 5,
        "vllm:request_prefill_kv_computed_tokens_sum": 3,
        "vllm:request_max_num_generation_tokens_sum": 5,
        "vllm:request_params_max_tokens_sum": 16,
        "vllm:request_params_n_sum": 1,
        "vllm:iteration_tokens_total_sum": 8,
        "vllm:time_to_first_token_seconds_sum": 2.0,
        "vllm:request_queue_time_seconds_sum": 1.0,
        "vllm:request_prefill_time_seconds_sum": 1.0,
        "vllm:request_decode_time_seconds_sum": 2.0,
        "vllm:request_inference_time_seconds_sum": 3.0,
        "vllm:e2e_request_latency_seconds_sum": 4.0,
        "vllm:request_time_per_output_token_seconds_sum": 0.5,
        "flyweight:prefix_cache_evictions_total": 1,
    }
    assert {name: value(server, name) for name in expected} == expected
    assert value(server, "vllm:request_success_total", finished_reason="stop") == 1
    assert value(server, "vllm:prompt_tokens_by_source_total", source="local_compute") == 3
    assert value(server, "vllm:spec_decode_num_accepted_tokens_per_pos_total", position="1") == 1
    assert value(server, "flyweight:step_seconds_count", kind="prefill") == 1
    assert value(server, "flyweight:step_seconds_count", kind="decode") == 2


def test_inter_token_latency_is_per_token_not_per_event(server, worker):
    run_one_request(worker)
    # One token 0.5 s after the first, then three at once 1.5 s later: 0.5 s each.
    assert value(server, "vllm:inter_token_latency_seconds_count") == 4
    assert value(server, "vllm:inter_token_latency_seconds_sum") == pytest.approx(2.0)
    assert value(server, "vllm:inter_token_latency_seconds_bucket", le="0.5") == 4
    assert value(server, "vllm:inter_token_latency_seconds_bucket", le="0.4") == 0


def test_several_tokens_in_the_first_event_have_no_gap_before_the_first(server, worker):
    one = events.name()
    worker.on_step(events.step(1, 0.0, 1.0, [events.chunk(one, 0, 5)], [(one, 1)]))
    assert value(server, "vllm:inter_token_latency_seconds_count") == 0


def test_a_preempted_request_that_reads_its_text_again_is_prefill(server, worker):
    one, other = events.name("a"), events.name("b")
    worker.on_step(events.step(1, 0, 1, [events.chunk(one, 0, 5)], [(one, 1)]))
    worker.on_step(
        events.step(2, 1, 2, [events.chunk(one, 0, 6), events.chunk(other, 5, 1)], [(one, 1)], preempted=[one])
    )
    worker.on_step(events.step(3, 2, 3, [events.chunk(one, 6, 1), events.chunk(other, 0, 4)], [(one, 1)]))
    assert value(server, "flyweight:step_seconds_count", kind="prefill") == 2
    assert value(server, "flyweight:step_seconds_count", kind="mixed") == 1


def test_one_that_never_reached_the_engine(server, worker):
    worker.on_submitted(events.submitted())
    worker.on_finished(events.finished(outcome="timeout", of_record=None))
    assert value(server, "vllm:request_success_total", finished_reason="abort") == 1
    assert value(server, "flyweight:request_errors_total", reason="timeout") == 1
    assert value(server, "vllm:request_queue_time_seconds_sum") == 4.0
    assert value(server, "vllm:time_to_first_token_seconds_count") == 0
    assert not worker._longest


@pytest.mark.parametrize(
    ("outcome", "reason", "fault"),
    [
        ("stop", "stop", None),
        ("length", "length", None),
        ("error", "error", "error"),
        ("abort", "abort", "abort"),
        ("timeout", "abort", "timeout"),
        ("drained", "abort", "drained"),
    ],
)
def test_how_an_answer_ended(server, worker, outcome, reason, fault):
    worker.on_submitted(events.submitted())
    worker.on_finished(events.finished(outcome=outcome))
    counted = exposed(server)["vllm:request_success_total"]
    assert {dict(labels)["finished_reason"]: count for labels, count in counted.items() if count} == {reason: 1}
    errors = exposed(server).get("flyweight:request_errors_total", {})
    assert {dict(labels)["reason"]: count for labels, count in errors.items() if count} == ({fault: 1} if fault else {})


def test_of_several_answers_each_reason_counts_and_the_longest_answer(server, worker):
    """Two prompts of three answers each; the longest is neither the first nor the last, and did not end as they did."""
    worker.on_submitted(events.submitted(prompts=(5, 5), samples=3))
    ends = [(4, "stop"), (9, "length"), (2, "stop"), (7, "error"), (1, "stop"), (3, "stop")]
    for place, (tokens, outcome) in enumerate(ends):
        assert value(server, "vllm:request_max_num_generation_tokens_count") == 0
        of = events.name(prompt=place // 3, sample=place % 3)
        worker.on_finished(
            events.finished(of, outcome=outcome, samples=3, of_record=events.record(answer_tokens=tokens))
        )
    assert value(server, "vllm:request_max_num_generation_tokens_count") == 1
    assert value(server, "vllm:request_max_num_generation_tokens_sum") == 9
    assert value(server, "vllm:request_params_n_sum") == 3
    for reason, count in {"stop": 4, "length": 1, "error": 1, "abort": 0}.items():
        assert value(server, "vllm:request_success_total", finished_reason=reason) == count
    assert not worker._longest


def test_a_server_counts_a_fault_as_an_error_and_each_answer_by_its_end():
    """What the engine tells reaches the counters under its own name: two answers at their length, then a fault."""
    model = load(model_path())
    ask = {"prompt": "The opposite of hot is", "max_tokens": 3, "ignore_eos": True}
    with served({"demo": model}) as server, server.client() as client:

        def finished() -> dict[str, float]:
            lines = client.get("/metrics").text.splitlines()
            found = [line for line in lines if line.startswith("vllm:request_success_total{")]
            counts = {line.split('finished_reason="')[1].split('"')[0]: float(line.split()[-1]) for line in found}
            return {reason: count for reason, count in counts.items() if count}

        assert client.post("/v1/completions", json={**ask, "n": 2}).status_code == 200
        assert finished() == {"length": 2}
        model.forward = lambda batch: np.full((len(batch.output_rows), model.spec.vocab_size), np.nan, np.float32)
        assert client.post("/v1/completions", json={**ask, "prompt": "Cold"}).status_code == 500
        assert finished() == {"length": 2, "error": 1}


def test_two_engines_behind_one_name_add_up(server, model):
    old, new = WorkerMetrics(model), WorkerMetrics(model)
    for worker, total in ((old, 10), (new, 3), (old, 12), (new, 4)):
        worker.on_step(events.step(1, 0, 1, [], counts=events.metrics(answer_tokens=total)))
    assert value(server, "vllm:generation_tokens_total") == 16


def test_rejections_have_vllms_reasons(server, worker):
    worker.on_rejected(events.rejected(reason="queued_requests"))
    worker.on_rejected(events.rejected(reason="requests_per_key"))
    assert value(server, "vllm:admission_rejections_total", reason="max_num_queued_reqs") == 1
    assert value(server, "vllm:admission_rejections_total", reason="requests_per_key") == 1


def test_gauges_are_read_when_asked(server, model):
    state = Gauges(running=2, waiting=1, queued=3, cache_usage=0.25, retry_after=4.0, queued_by_owner={"a": 3})
    model.probe = lambda: state
    model.cache = CacheConfig(block_size=16, num_blocks=10, dtype="bfloat16", prefix_caching=True)
    assert value(server, "vllm:num_requests_running") == 2
    assert value(server, "vllm:num_requests_waiting") == 4
    assert value(server, "vllm:num_requests_waiting_by_reason", reason="admission") == 3
    assert value(server, "vllm:kv_cache_usage_perc") == 0.25
    assert value(server, "flyweight:retry_after_seconds") == 4.0
    assert value(server, "flyweight:queue_requests", key="a") == 3
    info = {"block_size": "16", "num_gpu_blocks": "10", "cache_dtype": "bfloat16", "enable_prefix_caching": "True"}
    assert value(server, "vllm:cache_config_info", **info) == 1
    state = Gauges()
    assert value(server, "vllm:num_requests_running") == 0
    assert value(server, "flyweight:queue_requests", key="a") == 0


def test_fairness_is_jains_index_of_the_last_minute(model):
    assert model.fairness() == 1.0
    model.serve("a", 100, at=0.0)
    model.serve("b", 100, at=1.0)
    assert model.fairness() == 1.0
    model.serve("b", 200, at=2.0)
    assert model.fairness() == pytest.approx(400**2 / (2 * (100**2 + 300**2)))
    model.serve("b", 1, at=61.5)
    assert model.fairness() == 1.0


def test_fairness_keeps_no_answer(model):
    def size() -> int:
        tracemalloc.start()
        for number in range(10_000):
            model.serve("a", 1, at=number / 5_000)
        found = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return found

    assert size() < 10_000


def test_owners_are_bounded(server, model):
    for number in range(MOST_OWNERS + 50):
        model.serve(f"key-{number}", 1, at=0.0)
    samples = exposed(server)["flyweight:served_tokens_total"]
    assert len(samples) == MOST_OWNERS + 1
    assert value(server, "flyweight:served_tokens_total", key="other") == 50


def test_every_metric_is_exposed_before_anything_happened(server, model):
    model.probe = Gauges
    found = {family.name for family in text_string_to_metric_families(server.render()[0].decode())}
    assert {metric.name for metric in names.METRICS} <= found | {"vllm:iteration_tokens"}
    assert value(server, "vllm:request_success_total", finished_reason="length") == 0


def test_vllm_names_and_buckets_are_vllms(server, model):
    """From vLLM's own source (v1/metrics): a superset or another order would change what a dashboard draws."""
    found = exposed(server)

    def bounds(name):
        return sorted(float(dict(labels)["le"]) for labels in found[f"{name}_bucket"])

    infinity = [float("inf")]
    assert bounds("vllm:time_to_first_token_seconds") == [
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
        2560, *infinity,
    ]  # fmt: skip
    itl = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, *infinity]
    assert bounds("vllm:inter_token_latency_seconds") == itl
    assert bounds("vllm:request_time_per_output_token_seconds") == itl
    assert bounds("vllm:e2e_request_latency_seconds") == [
        0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680, *infinity,
    ]  # fmt: skip
    assert bounds("vllm:iteration_tokens_total") == [1, *(2**power for power in range(3, 15)), *infinity]
    assert bounds("vllm:request_params_n") == [1, 2, 5, 10, 20, *infinity]
    assert bounds("vllm:request_prompt_tokens") == [1, 2, 5, 10, 20, 50, 100, *infinity]


def test_two_servers_share_nothing(server, worker):
    run_one_request(worker)
    other = ServerMetrics(version="2", kernel_isa="generic", threads=1)
    other.model("demo", context_length=100)
    assert value(other, "vllm:generation_tokens_total") == 0
    build = exposed(other)["flyweight:build_info"]
    assert dict(next(iter(build)))["kernel_isa"] == "generic"


def test_a_forgotten_model_is_no_longer_exposed(server, worker):
    run_one_request(worker)
    server.forget("demo")
    assert "vllm:generation_tokens_total" not in exposed(server)


def test_a_step_of_sixteen_streams_costs_little():
    worker = WorkerMetrics(ModelMetrics("demo", context_length=4096))
    answers = [events.name(f"r{number}") for number in range(16)]
    chunks, answered = [events.chunk(one, 10, 1) for one in answers], [(one, 1) for one in answers]
    steps = [
        events.step(n, n * 0.1, n * 0.1 + 0.05, chunks, answered, counts=events.metrics(steps=n)) for n in range(200)
    ]
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for one in steps:
            worker.on_step(one)
        best = min(best, (time.perf_counter() - began) / len(steps))
    assert best < 0.001, f"a step's metrics take {best * 1e6:.0f} us"


def test_the_time_of_grammars_is_counted():
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    ask = {"messages": [{"role": "user", "content": "Yes?"}], "max_tokens": 20}
    with served() as server, server.client() as client:
        assert client.post("/v1/chat/completions", json={**ask, "response_format": schema}).status_code == 200
        refused = {"structured_outputs": {"regex": "(("}}
        assert client.post("/v1/chat/completions", json={**ask, **refused}).status_code == 400
        exposed = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in exposed.splitlines() if line.startswith("flyweight:grammar"))
    labels = '{engine="0",model_name="demo"}'
    assert float(values[f"flyweight:grammar_compile_seconds_count{labels}"]) == 2
    assert float(values[f"flyweight:grammar_compile_seconds_sum{labels}"]) > 0
    assert float(values[f"flyweight:grammars_refused_total{labels}"]) == 1
    assert float(values[f"flyweight:grammar_mask_seconds_total{labels}"]) > 0
    assert float(values[f"flyweight:grammar_wait_seconds_total{labels}"]) >= 0
