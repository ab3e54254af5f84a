"""OpenTelemetry spans of requests, made when these have ended, on a thread of their own. Needs the ``otel`` extra.

A span for the HTTP request, under the ``traceparent`` that its client sent, and below it one for each answer with its
queue, prefill and decode. Names follow the conventions for generative models. No span holds a word of a prompt or an
answer.
"""

import queue
import threading
import time
from collections import OrderedDict

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flyweight.errors import UsageError
from flyweight.serving.observation import Finished, GrammarCompiled, HttpEnded, Rejected, StepTaken, Submitted
from flyweight.version import __version__

MOST_WAITING = 2048
MOST_PENDING = 1024
EXPORT_SECONDS = 5.0  # an export may take, with its repetitions
GRACE_SECONDS = 0.5  # an answer that its client has left ends after its HTTP request


class Traces:
    """An observer that sends spans to ``exporter``."""

    def __init__(self, exporter: SpanExporter, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "flyweight", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("flyweight", __version__)
        self._offset = time.time() - time.perf_counter()
        self._grace = grace_seconds
        self._answers: OrderedDict[str, list[Finished]] = OrderedDict()
        self._ended: queue.Queue[HttpEnded | None] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="flyweight-traces", daemon=True)
        self._thread.start()

    def on_submitted(self, event: Submitted) -> None:
        """A span is made when all is over."""

    def on_compiled(self, event: GrammarCompiled) -> None:
        """Grammars are no spans: they are compiled before a request stands in the queue."""

    def on_rejected(self, event: Rejected) -> None:
        """The HTTP request's span has the status."""

    def on_step(self, event: StepTaken) -> None:
        """Steps have metrics; a span for each would cost more than it tells."""

    def on_finished(self, event: Finished) -> None:
        with self._lock:
            self._answers.setdefault(event.name.request_id, []).append(event)
            while len(self._answers) > MOST_PENDING:
                self._answers.popitem(last=False)

    def end(self, request: HttpEnded) -> None:
        """An HTTP request has ended; never waits."""
        try:
            self._ended.put_nowait(request)
        except queue.Full:
            self.dropped += 1

    def close(self, seconds: float = 5.0) -> None:
        """Send what there is, for so many seconds at most."""
        try:
            self._ended.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)
        self._provider.shutdown()

    def _run(self) -> None:
        while (request := self._ended.get()) is not None:
            time.sleep(max(0.0, request.ended + self._grace - time.perf_counter()))
            with self._lock:
                answers = self._answers.pop(request.request_id, [])
            self._make(request, answers)

    def _make(self, request: HttpEnded, answers: list[Finished]) -> None:
        carrier = {"traceparent": request.traceparent} if request.traceparent else {}
        span = self._tracer.start_span(
            f"{request.method} {request.route}",
            context=TraceContextTextMapPropagator().extract(carrier, context=Context()),
            kind=SpanKind.SERVER,
            start_time=self._at(request.began),
            attributes={
                "http.request.method": request.method,
                "http.route": request.route,
                "http.response.status_code": request.status,
                "flyweight.request.id": request.request_id,
            },
        )
        if request.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        inside = set_span_in_context(span, Context())
        for answer in answers:
            self._make_answer(answer, inside)
        span.end(self._at(request.ended))

    def _make_answer(self, answer: Finished, context: Context) -> None:
        record = answer.record
        attributes: dict[str, str | int | float | list[str]] = {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "flyweight",
            "gen_ai.request.model": answer.model,
            "gen_ai.request.max_tokens": answer.max_tokens,
            "gen_ai.request.choice.count": answer.samples,
            "gen_ai.response.finish_reasons": [answer.outcome],
        }
        if record is not None:
            attributes["gen_ai.usage.input_tokens"] = record.prompt_tokens
            attributes["gen_ai.usage.output_tokens"] = record.answer_tokens
            attributes["flyweight.usage.cached_tokens"] = record.cached_tokens
            attributes["flyweight.preemptions"] = record.preemptions
            if record.first_token:
                attributes["gen_ai.server.time_to_first_token"] = record.first_token - answer.queued_at
        span = self._tracer.start_span(
            f"generate_content {answer.model}",
            context=context,
            start_time=self._at(answer.queued_at),
            attributes=attributes,
        )
        if answer.outcome not in ("stop", "length"):
            span.set_status(Status(StatusCode.ERROR, answer.outcome))
        began = record.began if record is not None else 0.0
        first = record.first_token if record is not None else 0.0
        parts = [("queue", answer.queued_at, began or answer.ended_at)]
        if began:
            parts.append(("prefill", began, first or answer.ended_at))
        if first:
            parts.append(("decode", first, answer.ended_at))
        inside = set_span_in_context(span, Context())
        for name, start, stop in parts:
            self._tracer.start_span(name, context=inside, start_time=self._at(start)).end(self._at(stop))
        span.end(self._at(answer.ended_at))

    def _at(self, seconds: float) -> int:
        """Nanoseconds since 1970."""
        return int((seconds + self._offset) * 1e9)


def open_traces(endpoint: str) -> Traces:
    """Traces to an OTLP collector over HTTP.

    Raises:
        UsageError: when ``endpoint`` is not an http or https address.
    """
    if not endpoint.startswith(("http://", "https://")):
        raise UsageError(
            f"otlp_endpoint={endpoint!r} is not possible; name an address such as http://host:4318/v1/traces"
        )
    return Traces(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS))
