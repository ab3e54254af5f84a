"""Starts a server: loads the models, makes their services, and serves until it is told to stop."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from flyweight.engine.language_model import LanguageModel
from flyweight.serving.http.app import make_app
from flyweight.serving.http.server import Server, serve
from flyweight.serving.http.state import ServerState
from flyweight.serving.limits import ServerLimits
from flyweight.serving.observation import Observers
from flyweight.serving.options import ServeOptions
from flyweight.serving.service import ModelService

POOL_THREADS = 2

log = logging.getLogger("flyweight")


def run_server(
    models: Mapping[str, LanguageModel],
    options: ServeOptions,
    limits: ServerLimits,
    *,
    observers: Observers = (),
    on_listening: Callable[[str, Server], None] = lambda _url, _server: None,
) -> None:
    """Serve these models by their names until a signal comes.

    Raises:
        UsageError: when the address cannot be listened on.
    """
    asyncio.run(_run(models, options, limits, observers, on_listening))


async def _run(
    models: Mapping[str, LanguageModel],
    options: ServeOptions,
    limits: ServerLimits,
    observers: Observers,
    on_listening: Callable[[str, Server], None],
) -> None:
    with ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="text") as pool:
        state = ServerState(options=options, limits=limits, pool=pool)
        app = make_app(state)
        for name, model in models.items():
            state.services[name] = ModelService(model, name=name, limits=limits, pool=pool, observers=observers)
            state.services[name].start()
        await serve(app, state, on_listening=on_listening)
