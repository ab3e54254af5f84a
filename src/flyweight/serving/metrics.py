"""Prometheus metrics of a server: counted from what observers are told, exposed in a registry of their own.

Everything runs in the event loop's thread. A step costs a few additions and one observation for each answer in it;
families are put together only when somebody asks for them. Names and buckets stand in ``metric_names.py``.
"""

import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import generate_latest

from flyweight.engine.metrics import EngineMetrics
from flyweight.serving import metric_names as names
from flyweight.serving.buckets import BucketCounts, token_bounds
from flyweight.serving.metric_names import METRICS, Metric
from flyweight.serving.observation import AnswerName, Finished, GrammarCompiled, Rejected, StepTaken, Submitted

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ENGINE = "0"  # vLLM counts the engines behind one model name; here there is one
_TOTALS = (
    names.PREFIX_QUERIES,
    names.PREFIX_HITS,
    names.EVICTIONS,
    names.PREEMPTIONS,
    names.PROMPT_TOKENS,
    names.GENERATION_TOKENS,
    names.DRAFT_TOKENS,
    names.ACCEPTED_TOKENS,
    names.GRAMMAR_MASK_SECONDS,
    names.GRAMMAR_WAIT_SECONDS,
)
MOST_OWNERS = 64
OTHER_OWNERS = "other"
FAIRNESS_SECONDS = 60
# vLLM's reasons for admission's own.
_REASONS = {"queued_requests": "max_num_queued_reqs", "queued_tokens": "max_num_queued_tokens"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gauges:
    """How one model stands now, asked for when metrics are.

    ``queued`` prompts wait before the engine, ``queued_by_owner`` says whose; ``waiting`` answers wait inside it.
    ``seconds_since_step`` is 0 while nothing is queued.
    """

    running: int = 0
    waiting: int = 0
    queued: int = 0
    cache_usage: float = 0.0
    retry_after: float = 0.0
    seconds_since_step: float = 0.0
    ready: bool = True
    memory_bytes: int = 0
    queued_by_owner: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheConfig:
    """A model's KV cache, as vLLM's ``cache_config_info`` tells it."""

    block_size: int
    num_blocks: int
    dtype: str
    prefix_caching: bool


class _Sheet:
    """Values by metric and labels."""

    def __init__(self) -> None:
        self.values: dict[tuple[Metric, tuple[str, ...]], float] = {}
        self.histograms: dict[tuple[Metric, tuple[str, ...]], BucketCounts] = {}

    def add(self, metric: Metric, amount: float, *labels: str) -> None:
        key = metric, labels
        self.values[key] = self.values.get(key, 0.0) + amount

    def histogram(self, metric: Metric, bounds: tuple[float, ...], *labels: str) -> BucketCounts:
        found = self.histograms.get((metric, labels))
        if found is None:
            found = self.histograms[metric, labels] = BucketCounts(bounds)
        return found


class ModelMetrics:
    """What is counted of all that answered, answer or will answer behind one name.

    Args:
        context_length: where the buckets of token counts end.
    """

    def __init__(self, name: str, *, context_length: int) -> None:
        self.name = name
        self.sheet = _Sheet()
        self.probe: Callable[[], Gauges] | None = None
        self.cache: CacheConfig | None = None
        self._tokens = token_bounds(context_length)
        self._owners: set[str] = set()
        # The last minute's seconds, with the tokens of each owner: its size does not follow the number of answers.
        self._served: deque[tuple[int, dict[str, int]]] = deque()
        for metric in METRICS:
            if metric.per_model and metric.kind == "histogram" and not metric.labels:
                self.sheet.histogram(metric, metric.bounds or self._tokens)
            elif metric.per_model and metric.kind == "counter" and not metric.labels:
                self.sheet.add(metric, 0.0)
        for reason in ("stop", "length", "abort", "error"):
            self.sheet.add(names.REQUEST_SUCCESS, 0.0, reason)

    def observe(self, metric: Metric, value: float, count: int = 1, *labels: str) -> None:
        self.sheet.histogram(metric, metric.bounds or self._tokens, *labels).observe(value, count)

    def owner(self, owner: str) -> str:
        """The label for an owner; beyond so many they share one, since a label costs memory for ever."""
        if owner not in self._owners:
            if len(self._owners) >= MOST_OWNERS:
                return OTHER_OWNERS
            self._owners.add(owner)
        return owner

    def serve(self, owner: str, tokens: int, at: float) -> None:
        """Count tokens computed for an owner."""
        owner = self.owner(owner)
        self.sheet.add(names.OWNER_TOKENS, tokens, owner)
        second = int(at)
        if not self._served or self._served[-1][0] < second:
            self._served.append((second, {}))
            while self._served[0][0] < second - FAIRNESS_SECONDS:
                self._served.popleft()
        newest = self._served[-1][1]
        newest[owner] = newest.get(owner, 0) + tokens

    def fairness(self) -> float:
        """Jain's index of the tokens served to each owner of the last minute's answers: 1 is even."""
        shares: dict[str, int] = {}
        for _, served in self._served:
            for owner, tokens in served.items():
                shares[owner] = shares.get(owner, 0) + tokens
        squares = sum(tokens * tokens for tokens in shares.values())
        return sum(shares.values()) ** 2 / (len(shares) * squares) if squares else 1.0

    def gauges(self) -> Iterator[tuple[Metric, tuple[str, ...], float]]:
        """What holds now."""
        now = self.probe() if self.probe is not None else Gauges(ready=False)
        yield names.RUNNING, (), now.running
        yield names.WAITING, (), now.waiting + now.queued
        yield names.WAITING_BY_REASON, ("capacity",), now.waiting
        yield names.WAITING_BY_REASON, ("admission",), now.queued
        yield names.CACHE_USAGE, (), now.cache_usage
        yield names.RETRY_AFTER, (), now.retry_after
        yield names.SINCE_STEP, (), now.seconds_since_step
        yield names.LOADED, (), float(now.ready)
        yield names.MODEL_BYTES, (), now.memory_bytes
        yield names.FAIRNESS, (), self.fairness()
        queued: dict[str, int] = dict.fromkeys(self._owners, 0)
        for owner, count in now.queued_by_owner.items():
            label = self.owner(owner)
            queued[label] = queued.get(label, 0) + count
        for owner, count in queued.items():
            yield names.OWNER_QUEUE, (owner,), count
        if self.cache is not None:
            cache = self.cache
            labels = (str(cache.block_size), str(cache.num_blocks), cache.dtype, str(cache.prefix_caching))
            yield names.CACHE_CONFIG, labels, 1.0


class WorkerMetrics:
    """The observer of one engine: two answer behind one name while a model is swapped, each with its counters."""

    def __init__(self, model: ModelMetrics) -> None:
        self._model = model
        self._sheet = model.sheet
        self._totals: tuple[float, ...] = (0,) * len(_TOTALS)
        self._last_token: dict[AnswerName, float] = {}
        self._longest: dict[str, list[int]] = {}  # of a request's answers: how many have not ended, and the longest

    def on_submitted(self, event: Submitted) -> None:
        model = self._model
        model.observe(names.PARAMS_N, event.samples)
        for most in event.max_tokens:
            model.observe(names.PARAMS_MAX_TOKENS, most)
        self._longest[event.request_id] = [len(event.prompt_tokens) * event.samples, 0]

    def on_rejected(self, event: Rejected) -> None:
        self._sheet.add(names.ADMISSION_REJECTIONS, 1, _REASONS.get(event.reason, event.reason))

    def on_compiled(self, event: GrammarCompiled) -> None:
        self._model.observe(names.GRAMMAR_COMPILE_SECONDS, event.seconds)
        if event.is_refused:
            self._sheet.add(names.GRAMMARS_REFUSED, 1)

    def on_step(self, event: StepTaken) -> None:
        model, last = self._model, self._last_token
        answered = dict(event.answered)
        prompts = decodes = 0
        for chunk in event.chunks:
            if chunk.count - chunk.drafts > 1 or chunk.name not in last:
                prompts += 1
            else:
                decodes += 1
            if chunk.drafts:
                self._count_draft(answered.get(chunk.name, 0) - 1)
        gaps, fine = model.sheet.histograms[names.TOKEN_GAP, ()], model.sheet.histograms[names.FINE_TOKEN_GAP, ()]
        for name, count in event.answered:
            before = last.get(name)
            if before is None:
                count -= 1  # the first token has no token before it
                before = event.ended
            if count > 0:
                gap = (event.ended - before) / count
                gaps.observe(gap, count)
                fine.observe(gap, count)
            last[name] = event.ended
        kind = "mixed" if prompts and decodes else "prefill" if prompts else "decode"
        model.observe(names.STEP_SECONDS, event.ended - event.began, 1, kind)
        model.observe(names.BATCH_SIZE, len(event.chunks))
        self._count_totals(event.metrics)

    def _count_draft(self, accepted: int) -> None:
        self._sheet.add(names.DRAFTS, 1)
        for position in range(accepted):
            self._sheet.add(names.ACCEPTED_PER_POSITION, 1, str(position))

    def _count_totals(self, now: EngineMetrics) -> None:
        """Add what the engine's own counters have grown by."""
        totals = (
            now.prefix.queries,
            now.prefix.hits,
            now.prefix.evictions,
            now.preemptions,
            now.prompt_tokens,
            now.answer_tokens,
            now.draft_tokens,
            now.accepted_tokens,
            now.mask_seconds,
            now.mask_wait_seconds,
        )
        for metric, total, before in zip(_TOTALS, totals, self._totals, strict=True):
            if total != before:
                self._sheet.add(metric, total - before)
        self._totals = totals
        self._model.observe(names.STEP_TOKENS, now.last_step_tokens)

    def on_finished(self, event: Finished) -> None:
        model, record = self._model, event.record
        self._last_token.pop(event.name, None)
        reason = event.outcome if event.outcome in ("stop", "length", "error") else "abort"
        self._sheet.add(names.REQUEST_SUCCESS, 1, reason)
        if event.outcome not in ("stop", "length"):
            self._sheet.add(names.ERRORS, 1, event.outcome)
        answer_tokens = 0 if record is None else record.answer_tokens
        self._count_longest(event.name.request_id, answer_tokens)
        model.observe(names.REQUEST_SECONDS, event.ended_at - event.queued_at)
        if record is None or not record.began:
            model.observe(names.QUEUE_SECONDS, event.ended_at - event.queued_at)
            return
        computed = record.prompt_tokens - record.cached_tokens
        if event.is_embedding:  # the engine's own counters know of none
            self._sheet.add(names.EMBEDDED_TEXTS, 1)
            self._sheet.add(names.PROMPT_TOKENS, record.prompt_tokens)
        model.observe(names.QUEUE_SECONDS, record.began - event.queued_at)
        model.observe(names.INFERENCE_SECONDS, event.ended_at - record.began)
        model.observe(names.REQUEST_PROMPT_TOKENS, record.prompt_tokens)
        model.observe(names.REQUEST_GENERATION_TOKENS, answer_tokens)
        model.observe(names.REQUEST_PREEMPTIONS, record.preemptions)
        model.observe(names.PREFILL_COMPUTED, computed)
        self._sheet.add(names.PROMPT_TOKENS_CACHED, record.cached_tokens)
        self._sheet.add(names.PROMPT_TOKENS_BY_SOURCE, computed, "local_compute")
        self._sheet.add(names.PROMPT_TOKENS_BY_SOURCE, record.cached_tokens, "local_cache_hit")
        model.serve(event.owner, computed + answer_tokens, event.ended_at)
        if not answer_tokens:
            return
        model.observe(names.FIRST_TOKEN, record.first_token - event.queued_at)
        model.observe(names.PREFILL_SECONDS, record.first_token - record.began)
        model.observe(names.DECODE_SECONDS, event.ended_at - record.first_token)
        if answer_tokens > 1:
            model.observe(names.TIME_PER_TOKEN, (event.ended_at - record.first_token) / (answer_tokens - 1))

    def _count_longest(self, request: str, tokens: int) -> None:
        state = self._longest.get(request)
        if state is None:
            return
        state[0] -= 1
        state[1] = max(state[1], tokens)
        if state[0] <= 0:
            self._model.observe(names.MOST_GENERATION_TOKENS, state[1])
            del self._longest[request]


class ServerMetrics:
    """All metrics of one server.

    Args:
        version, kernel_isa, threads: told in ``flyweight:build_info``.
    """

    def __init__(self, *, version: str, kernel_isa: str, threads: int) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._models: dict[str, ModelMetrics] = {}
        self._sheet = _Sheet()
        self._gauges: dict[Metric, Callable[[], float]] = {}
        build = (version, platform.python_version(), kernel_isa, str(threads))
        self._sheet.add(names.BUILD_INFO, 1.0, *build)
        for collector in (_Families(self._families), ProcessCollector(registry=None), PlatformCollector(registry=None)):
            self.registry.register(collector)
        GCCollector(registry=self.registry)

    def model(self, name: str, *, context_length: int) -> ModelMetrics:
        """What is counted under a name; the same for all that ever answer behind it."""
        if name not in self._models:
            self._models[name] = ModelMetrics(name, context_length=context_length)
        return self._models[name]

    def forget(self, name: str) -> None:
        """Expose a name no longer."""
        self._models.pop(name, None)

    def count(self, metric: Metric, amount: float, *labels: str) -> None:
        """Add to one of the server's own counters."""
        self._sheet.add(metric, amount, *labels)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Observe a value of one of the server's own histograms."""
        self._sheet.histogram(metric, metric.bounds or (), *labels).observe(value)

    def set_gauge(self, metric: Metric, read: Callable[[], float]) -> None:
        """Where one of the server's own values without labels is read when somebody asks; counters too may be kept
        elsewhere."""
        self._gauges[metric] = read

    def render(self) -> tuple[bytes, str]:
        """The exposition as text, and its content type. It is the only form: the client library's OpenMetrics turns the
        colon of ``vllm:`` into an underscore, and no dashboard would find the names."""
        return generate_latest(self.registry), CONTENT_TYPE

    def _families(self) -> Iterator[Family]:
        found: dict[Metric, list[tuple[tuple[str, ...], float | BucketCounts]]] = {metric: [] for metric in METRICS}
        sheets = [((), self._sheet), *(((name, ENGINE), model.sheet) for name, model in self._models.items())]
        for labels, sheet in sheets:
            for (metric, own), number in sheet.values.items():
                found[metric].append(((*labels, *own), number))
            for (metric, own), counts in sheet.histograms.items():
                found[metric].append(((*labels, *own), counts))
        for name, model in self._models.items():
            for metric, own, value in model.gauges():
                found[metric].append(((name, ENGINE, *own), value))
        for metric, read in self._gauges.items():
            found[metric].append(((), read()))
        for metric, samples in found.items():
            yield _family(metric, samples)


class _Families:
    """What a registry asks for families."""

    def __init__(self, families: Callable[[], Iterable[Family]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families()


def _family(metric: Metric, samples: list[tuple[tuple[str, ...], float | BucketCounts]]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.all_labels)
        for labels, value in samples:
            assert isinstance(value, BucketCounts)
            histogram.add_metric(labels, buckets=value.cumulative(), sum_value=value.total)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.all_labels)
    for labels, value in samples:
        assert not isinstance(value, BucketCounts)
        family.add_metric(labels, value)
    return family
