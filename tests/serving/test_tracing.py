"""Spans of requests: their tree, times and names, without a word of what was said; also without a collector."""

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support import serving_events as events
from support.served import served

from flyweight import load
from flyweight.demo_model import model_path
from flyweight.errors import UsageError
from flyweight.serving.observation import HttpEnded
from flyweight.serving.options import ServeOptions

memory_exporter = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
from flyweight.serving.tracing import Traces, open_traces  # noqa: E402 - only with the otel extra

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def ended(request="r1", *, status=200, traceparent=""):
    return HttpEnded(
        request_id=request,
        method="POST",
        route="/v1/chat/completions",
        status=status,
        began=99.0,
        ended=104.5,
        traceparent=traceparent,
    )


def spans_of(*told):
    exporter = memory_exporter.InMemorySpanExporter()
    traces = Traces(exporter, grace_seconds=0.0)
    for event in told:
        if isinstance(event, HttpEnded):
            traces.end(event)
        else:
            traces.on_finished(event)
    traces.close()
    return exporter.get_finished_spans()


def test_the_tree_of_one_request():
    spans = {span.name: span for span in spans_of(events.finished(), ended(traceparent=PARENT))}
    assert set(spans) == {"POST /v1/chat/completions", "generate_content demo", "queue", "prefill", "decode"}
    http, answer = spans["POST /v1/chat/completions"], spans["generate_content demo"]
    assert format(http.parent.span_id, "016x") == "b7ad6b7169203331"
    assert format(http.context.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c"
    assert answer.parent.span_id == http.context.span_id
    assert {spans[name].parent.span_id for name in ("queue", "prefill", "decode")} == {answer.context.span_id}
    seconds = {name: (span.end_time - span.start_time) / 1e9 for name, span in spans.items()}
    assert seconds["queue"] == pytest.approx(1.0, abs=1e-3)
    assert seconds["prefill"] == pytest.approx(1.0, abs=1e-3)
    assert seconds["decode"] == pytest.approx(2.0, abs=1e-3)
    assert seconds["POST /v1/chat/completions"] == pytest.approx(5.5, abs=1e-3)
    assert answer.attributes["gen_ai.usage.output_tokens"] == 5
    assert answer.attributes["gen_ai.server.time_to_first_token"] == 2.0
    assert answer.status.is_ok or answer.status.is_unset


def test_failures_are_marked_and_parts_that_never_were_are_left_out():
    spans = spans_of(events.finished(outcome="timeout", of_record=None), ended(status=503, traceparent="nonsense\r\n"))
    by_name = {span.name: span for span in spans}
    assert set(by_name) == {"POST /v1/chat/completions", "generate_content demo", "queue"}
    assert not by_name["generate_content demo"].status.is_ok
    assert by_name["POST /v1/chat/completions"].parent is None


def test_end_never_waits_and_counts_what_it_drops():
    traces = Traces(memory_exporter.InMemorySpanExporter(), grace_seconds=0.0)
    traces._ended.put(None)  # the thread has ended: nobody takes anything
    traces._thread.join()
    for _ in range(2100):
        traces.end(ended())
    assert traces.dropped > 0


def test_a_bad_address_is_refused():
    with pytest.raises(UsageError, match="otlp_endpoint='collector:4318'"):
        open_traces("collector:4318")


def test_a_real_request_reaches_a_collector():
    bodies, came = [], threading.Event()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            came.set()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        options = ServeOptions(port=0, otlp_endpoint=f"http://127.0.0.1:{collector.server_port}/v1/traces")
        with served({"demo": load(model_path())}, options) as server, server.client(traceparent=PARENT) as client:
            body = {"model": "demo", "messages": [{"role": "user", "content": "Xyzzy"}], "max_tokens": 3}
            assert client.post("/v1/chat/completions", json=body).status_code == 200
            time.sleep(0.1)
        assert came.wait(10), "spans are sent when the server ends"
        collector.shutdown()
    sent = b"".join(body for _, body in bodies)
    assert b"generate_content demo" in sent
    assert bytes.fromhex("0af7651916cd43dd8448eb211c80319c") in sent
    assert b"Xyzzy" not in sent


def test_a_collector_that_is_not_there_harms_no_request(monkeypatch):
    monkeypatch.setattr(
        "flyweight.serving.tracing.EXPORT_SECONDS", 0.5
    )  # for the end of the test: a request does not wait for it
    options = ServeOptions(port=0, otlp_endpoint="http://127.0.0.1:9/v1/traces")
    with served({"demo": load(model_path())}, options) as server, server.client() as client:
        body = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
        for _ in range(3):
            assert client.post("/v1/chat/completions", json=body).status_code == 200
