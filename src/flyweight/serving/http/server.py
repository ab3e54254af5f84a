"""Runs the application: listens, and ends gracefully.

At the first SIGTERM or SIGINT the server takes no more requests (503, and /ready says so), lets those that are open
end, then closes. A second one ends what is open at once. The exit code is 0 either way.
"""

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from flyweight.errors import UsageError
from flyweight.serving.http.connections import guarded_protocol
from flyweight.serving.http.state import ServerState

log = logging.getLogger("flyweight")


class Server(uvicorn.Server):
    """uvicorn's server with our way to end."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        options, limits = state.options, state.limits
        super().__init__(
            uvicorn.Config(
                app,
                host=options.host,
                port=options.port,
                http=guarded_protocol(limits.header_seconds),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=limits.connections,
                timeout_keep_alive=int(limits.keep_alive_seconds),
                timeout_graceful_shutdown=5,
                h11_max_incomplete_event_size=limits.header_bytes,
                ssl_certfile=options.tls_certificate,
                ssl_keyfile=options.tls_key,
                ssl_keyfile_password=options.tls_key_password,
                ssl_ca_certs=None if options.tls_client_ca is None else str(options.tls_client_ca),
                ssl_cert_reqs=ssl.CERT_NONE if options.tls_client_ca is None else ssl.CERT_REQUIRED,
            )
        )
        self._state = state
        self._ending: asyncio.Task[None] | None = None

    @property
    def state_of_server(self) -> ServerState:
        """What its routes share."""
        return self._state

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end the server; they are not raised again afterwards, since ending was the wish."""
        loop = asyncio.get_running_loop()
        taken = []
        try:
            for one in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(one, self.end)
                taken.append(one)
        except (ValueError, RuntimeError):  # not the main thread: whoever runs it there ends it
            pass
        try:
            yield
        finally:
            for one in taken:
                loop.remove_signal_handler(one)

    def end(self) -> None:
        """Begin to end, or end at once when it was begun before."""
        if self._ending is None:
            log.info("ending: open answers get %g s", self._state.options.drain_seconds)
            self._ending = asyncio.get_running_loop().create_task(self._end())
        else:
            log.info("ending at once")
            self._ending.cancel()
            self.should_exit = self.force_exit = True

    async def _end(self) -> None:
        self._state.is_draining = True
        services = [*self._state.services.values(), *self._state.leaving]
        ended = await asyncio.gather(*(one.drain(self._state.options.drain_seconds) for one in services))
        if not all(ended):
            log.warning("some answers were cut off after %g s", self._state.options.drain_seconds)
        self.should_exit = True


async def serve(
    app: ASGIApp, state: ServerState, *, on_listening: Callable[[str, "Server"], None] = lambda _url, _server: None
) -> None:
    """Serve until a signal, or until ``Server.end``, says stop; then stop the services.

    Args:
        on_listening: is told the address, and the server, as soon as it takes connections.

    Raises:
        UsageError: when the address cannot be listened on, or the certificate cannot be read.
    """
    server = Server(app, state)
    try:
        server.config.load()
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the TLS files cannot be used: {error}") from error
    listening = listen_on(state.options.host, state.options.port)
    with listening:
        scheme = "https" if server.config.is_ssl else "http"
        host = f"[{state.options.host}]" if ":" in state.options.host else state.options.host
        on_listening(f"{scheme}://{host}:{listening.getsockname()[1]}", server)
        try:
            await server.serve(sockets=[listening])
        finally:
            await asyncio.gather(*(service.stop() for service in state.services.values()))


def listen_on(host: str, port: int) -> socket.socket:
    """A listening socket whose connections send at once.

    Raises:
        UsageError: when the address cannot be had.
    """
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port, or --host"
        ) from error
    # Connections inherit it. asyncio sets it only on sockets made with IPPROTO_TCP, which create_server's are not;
    # without it the body of an answer waits for the acknowledgement of its head, 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
