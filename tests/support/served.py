"""A real server in a thread, on the demo model or any other: for tests that speak HTTP."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from flyweight import LanguageModel, load
from flyweight.demo_model import model_path
from flyweight.serving.http.server import Server
from flyweight.serving.http.state import ServerState
from flyweight.serving.limits import ServerLimits
from flyweight.serving.log_sink import LogSink
from flyweight.serving.observation import Observers
from flyweight.serving.options import ServeOptions
from flyweight.serving.start import run_server


@dataclass(kw_only=True)
class Served:
    """Where it listens, and the insides for those who break them."""

    url: str
    server: Server
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    @property
    def state(self) -> ServerState:
        return self.server.state_of_server

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, headers=headers)

    def end(self) -> None:
        """As SIGTERM does."""
        self.loop.call_soon_threadsafe(self.server.end)


@contextmanager
def served(
    models: Mapping[str, LanguageModel] | None = None,
    options: ServeOptions | None = None,
    limits: ServerLimits | None = None,
    observers: Observers = (),
    sink: LogSink | None = None,
) -> Iterator[Served]:
    """A server that runs until the block ends."""
    models = {"demo": load(model_path())} if models is None else models
    listening = threading.Event()
    found: list[Served] = []
    failed: list[BaseException] = []

    def on_listening(url: str, server: Server) -> None:
        found.append(Served(url=url, server=server, loop=asyncio.get_running_loop(), thread=thread))
        listening.set()

    def run() -> None:
        try:
            run_server(
                models,
                options or ServeOptions(port=0),
                limits or ServerLimits(),
                observers=observers,
                sink=sink,
                on_listening=on_listening,
            )
        except BaseException as error:  # noqa: BLE001 - shown where the test is
            failed.append(error)
        finally:
            listening.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    listening.wait(30)
    if failed:
        raise failed[0]
    try:
        yield found[0]
    finally:
        if thread.is_alive():
            found[0].end()
        thread.join(30)
        if thread.is_alive():  # no assert: helpers are not rewritten, -O drops them
            raise RuntimeError("the server did not end")
        if failed:
            raise failed[0]
