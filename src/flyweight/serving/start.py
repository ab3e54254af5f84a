"""Starts a server: loads the models, makes their services, and serves until it is told to stop."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from flyweight.engine.language_model import LanguageModel
from flyweight.errors import UsageError
from flyweight.reporting.units import parse_bytes
from flyweight.serving import metric_names
from flyweight.serving.house import ModelHouse
from flyweight.serving.http.app import make_app, operations
from flyweight.serving.http.observed import ObservedHttp
from flyweight.serving.http.routes.admin import admin_operations
from flyweight.serving.http.routes.page import page_operations
from flyweight.serving.http.routes.watching import watching_operations
from flyweight.serving.http.server import Server, serve
from flyweight.serving.http.state import ServerState
from flyweight.serving.keys import read_admin_keys
from flyweight.serving.limits import ServerLimits
from flyweight.serving.log_sink import LogSink
from flyweight.serving.model_loader import ModelLoader
from flyweight.serving.observation import Observers
from flyweight.serving.options import ServeOptions
from flyweight.serving.watch import Watch

if TYPE_CHECKING:
    from flyweight.serving.tracing import Traces

POOL_THREADS = 2

log = logging.getLogger("flyweight")


def run_server(
    models: Mapping[str, LanguageModel],
    options: ServeOptions,
    limits: ServerLimits,
    *,
    loader: ModelLoader | None = None,
    sink: LogSink | None = None,
    observers: Observers = (),
    on_listening: Callable[[str, Server], None] = lambda _url, _server: None,
) -> None:
    """Serve these models by their names until a signal comes.

    Args:
        loader: loads further models at run time; should have the options of those that are given.
        sink: where the request log goes; None for no such log.
        observers: told of everything, beside those that every server has.

    Raises:
        UsageError: when the address cannot be listened on, or a key cannot be read.
    """
    asyncio.run(_run(models, options, limits, loader or ModelLoader(), sink, observers, on_listening))


async def _run(
    models: Mapping[str, LanguageModel],
    options: ServeOptions,
    limits: ServerLimits,
    loader: ModelLoader,
    sink: LogSink | None,
    observers: Observers,
    on_listening: Callable[[str, Server], None],
) -> None:
    with ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="text") as pool:
        state = ServerState(options=options, limits=limits, pool=pool)
        traces = None if options.otlp_endpoint is None else _open_traces(options.otlp_endpoint)
        watch = Watch(
            state.services,
            sink=sink if options.request_log else None,
            log_format=options.log_format,
            observers=observers if traces is None else (*observers, traces),
            on_http=(lambda _ended: None) if traces is None else traces.end,
        )
        watch.metrics.set_gauge(metric_names.DRAINING, lambda: float(state.is_draining))
        house = ModelHouse(
            state.services,
            state.leaving,
            loader=loader,
            limits=limits,
            pool=pool,
            watch=watch,
            root=options.model_root,
            memory_bound=None if options.models_memory is None else parse_bytes(options.models_memory),
        )
        extra = [*page_operations(), *watching_operations(watch)]
        admin_keys = read_admin_keys(options)
        if admin_keys is not None:
            extra += admin_operations(house, admin_keys)
        app = ObservedHttp(make_app(state, extra), watch, [*operations(), *extra])
        try:
            for name, model in models.items():
                house.adopt(name, model)
            await serve(app, state, on_listening=on_listening)
        finally:
            await house.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)


def _open_traces(endpoint: str) -> "Traces":
    try:
        from flyweight.serving.tracing import open_traces  # an extra, and only for those who want traces
    except ImportError:
        raise UsageError("otlp_endpoint needs the otel extra; install it with pip install 'flyweight[otel]'") from None
    return open_traces(endpoint)
