"""The listening socket: what its connections inherit."""

import socket

from flyweight.serving.http.server import listen_on


def test_connections_send_at_once():
    """An answer's body must not wait for the acknowledgement of its head."""
    with listen_on("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
