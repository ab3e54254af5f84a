"""All who watch one server: metrics, timelines, live state, request log. It makes the observers of each model's service
and answers what operators and the page ask. It belongs to the event loop.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from flyweight import kernels
from flyweight.serving import metric_names
from flyweight.serving.live_state import LiveState
from flyweight.serving.log_sink import LogSink
from flyweight.serving.metrics import CacheConfig, Gauges, ServerMetrics, WorkerMetrics
from flyweight.serving.observation import HttpEnded, Observers
from flyweight.serving.request_log import LogFormat, RequestLog
from flyweight.serving.service import ModelService
from flyweight.serving.timeline import Timelines
from flyweight.version import __version__


class Watch:
    """Watches one server.

    Args:
        services: by name, as they are now.
        sink: where the request log goes; None for no such log.
        observers: told of everything too.
        on_http: told of every HTTP request that has ended.

    Attributes:
        memory_of: bytes counted against the bound for the models of a name.
    """

    def __init__(
        self,
        services: Mapping[str, ModelService],
        *,
        sink: LogSink | None = None,
        log_format: LogFormat = "line",
        observers: Observers = (),
        on_http: Callable[[HttpEnded], None] = lambda _ended: None,
        clock: Callable[[], float] = time.perf_counter,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.metrics = ServerMetrics(version=__version__, kernel_isa=kernels.isa(), threads=kernels.thread_count())
        self.timelines = Timelines(clock=clock, wall_clock=wall_clock)
        self.memory_of: Callable[[str], int] = lambda _name: 0
        self._services = services
        self._log = None if sink is None else RequestLog(sink, log_format, wall_clock=wall_clock)
        self._observers = tuple(observers)
        self._on_http = on_http
        self._live: dict[str, LiveState] = {}
        self._clock = clock
        if sink is not None:
            self.metrics.set_gauge(metric_names.LOG_LINES_LOST, lambda: sink.dropped)

    def observers(self, name: str, *, context_length: int) -> Observers:
        """Observers for one service that answers, or will answer, behind a name; each service needs its own."""
        model = self.metrics.model(name, context_length=context_length)
        model.probe = lambda: self._gauges(name)
        live = self._live.setdefault(name, LiveState(self._clock))
        always = (*self._observers, WorkerMetrics(model), self.timelines, live)
        return always if self._log is None else (*always, self._log)

    def follow(self, service: ModelService) -> None:
        """Tell the sizes of a service that answers from now on."""
        pool = service.model.cache_sizes
        self.metrics.model(service.name, context_length=service.model.context_length).cache = CacheConfig(
            block_size=pool.block_size,
            num_blocks=pool.num_blocks,
            dtype=pool.kv_dtype,
            prefix_caching=pool.prefix_caching,
        )

    def forget(self, name: str) -> None:
        """A name is no longer served."""
        self.metrics.forget(name)
        self._live.pop(name, None)

    def end_http(self, ended: HttpEnded) -> None:
        """An HTTP request was answered."""
        self.metrics.count(metric_names.HTTP_REQUESTS, 1, ended.route, str(ended.status))
        if self._log is not None and (ended.method != "GET" or ended.status >= 400):  # the page asks all the time
            self._log.http(ended)
        self._on_http(ended)

    def state(self) -> dict[str, Any]:
        """How the engines are doing, for the page."""
        return {
            "object": "engine.state",
            "models": [self._model_state(name, service) for name, service in self._services.items()],
        }

    def _model_state(self, name: str, service: ModelService) -> dict[str, Any]:
        metrics = service.metrics
        prefix = metrics.prefix
        live = self._live.setdefault(name, LiveState(self._clock))
        return {
            "name": name,
            "status": "ready" if service.unreadiness() is None else service.unreadiness(),
            "running": metrics.running,
            "waiting": metrics.waiting + service.queued,
            "cache_usage": metrics.cache_usage,
            "cache_tokens": metrics.num_blocks * service.model.cache_sizes.block_size,
            "prefix_hit_rate": prefix.hits / prefix.queries if prefix.queries else None,
            "memory_bytes": self.memory_of(name),
            **live.describe(),
        }

    def _gauges(self, name: str) -> Gauges:
        service = self._services.get(name)
        if service is None:
            return Gauges(ready=False)
        metrics = service.metrics
        return Gauges(
            running=metrics.running,
            waiting=metrics.waiting,
            queued=service.queued,
            cache_usage=metrics.cache_usage,
            retry_after=service.retry_after,
            seconds_since_step=service.silent_seconds,
            ready=service.illness() is None and not service.is_draining,
            memory_bytes=self.memory_of(name),
            queued_by_owner=service.queued_by_owner,
        )
