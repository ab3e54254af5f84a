"""Checks below HTTP: headers that are too large or never end, bodies without an end, smuggling, slow clients."""

import socket
import time

from flyweight.serving.doctor.bodies import GOOD
from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.judge import control_answer, expect_alive, judge
from flyweight.serving.doctor.subject import Subject
from flyweight.serving.doctor.target import Target

REFUSED = (0, 400, 408, 411, 413, 414, 431, 501, 505)
PATH = b"/v1/chat/completions"


def connections(subject: Subject, trials: Trials) -> None:
    """CVE-2025-48956 (huge header), slow loris, chunks without end, request smuggling, HTTP/1.0 and worse."""
    target = subject.target
    before = control_answer(target)
    host = f"{target.host}:{target.port}".encode()
    guard = b"Host: " + host + b"\r\nAuthorization: Bearer " + target.key.encode() + b"\r\n"
    json_type = b"Content-Type: application/json\r\n"
    start = b"POST " + PATH + b" HTTP/1.1\r\n" + guard + json_type

    def length(size: int | bytes) -> bytes:
        return b"Content-Length: " + (size if isinstance(size, bytes) else b"%d" % size) + b"\r\n"

    cases: dict[str, bytes] = {
        "a header of 1 MB": start + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
        "a header name of 100 kB": start + b"a" * 100_000 + b": 1\r\n\r\n",
        "10,000 headers": start + b"".join(b"X-%d: 1\r\n" % one for one in range(10_000)) + b"\r\n",
        "a path of 1 MB": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n" + guard + b"\r\n",
        "a query of 100 kB": b"GET /v1/models?" + b"a" * 100_000 + b" HTTP/1.1\r\n" + guard + b"\r\n",
        "a negative length": start + length(b"-1") + b"\r\n" + GOOD,
        "a length of 2^64": start + length(2**64) + b"\r\n" + GOOD,
        "a length that is no number": start + length(b"abc") + b"\r\n" + GOOD,
        "a length with a sign": start + length(b"+%d" % len(GOOD)) + b"\r\n" + GOOD,
        "two lengths": start + length(5) + length(len(GOOD)) + b"\r\n" + GOOD,
        "a length and chunks": start + length(5) + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "an unknown transfer encoding": start + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "a chunk size that is no number": start + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        "a chunk extension of 1 MB": start
        + b"Transfer-Encoding: chunked\r\n\r\n1;"
        + b"a" * 1_000_000
        + b"\r\nx\r\n0\r\n\r\n",
        "a header on two lines": start + b"X: a\r\n b\r\n\r\n",
        "a space before the colon": start + b"X : a\r\n" + length(len(GOOD)) + b"\r\n" + GOOD,
        "a NUL in a header": start + b"X: a\x00b\r\n" + length(len(GOOD)) + b"\r\n" + GOOD,
        "line feeds only": start.replace(b"\r\n", b"\n") + length(len(GOOD)).replace(b"\r\n", b"\n") + b"\n" + GOOD,
        "no version": b"GET /v1/models\r\n\r\n",
        "HTTP/9.9": b"GET /v1/models HTTP/9.9\r\n" + guard + b"\r\n",
        "HTTP/2 without being asked": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
        "noise": bytes(range(256)) * 4 + b"\r\n\r\n",
        "an expectation that is unknown": start + b"Expect: coffee\r\n" + length(len(GOOD)) + b"\r\n" + GOOD,
        "an upgrade to a web socket": b"GET /v1/models HTTP/1.1\r\n"
        + guard
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n",
    }
    for name, data in cases.items():
        answer = target.send_raw(data, timeout=15)
        trials.expect(
            (answer.status < 500 or answer.status in REFUSED) and answer.status != -1,
            tried=name,
            found=str(answer),
            wanted="a refusal, a closed connection, or an answer",
        )
    too_long = start + b"Transfer-Encoding: chunked\r\n\r\n"
    answer = target.send_raw(too_long, *[b"100000\r\n" + b" " * 1_048_576 + b"\r\n"] * 40, timeout=15)
    trials.expect(answer.status in (0, 400, 413), tried="chunks without end", found=str(answer), wanted="413")
    big = start + length(10**12) + b"\r\n" + b" " * 1000
    answer = target.send_raw(big, timeout=15)
    trials.expect(answer.status in (0, 413), tried="a length of 10^12", found=str(answer), wanted="413 at once")
    judge(
        trials,
        target.send_raw(start.replace(b"HTTP/1.1", b"HTTP/1.0") + length(len(GOOD)) + b"\r\n" + GOOD),
        "HTTP/1.0",
        allowed=(200, 400, 505),
    )
    _pipelined(trials, target, start + length(len(GOOD)) + b"\r\n" + GOOD)
    _many_slow(trials, target, start, before)
    expect_alive(trials, target, before, "hostile connections")


def _pipelined(trials: Trials, target: Target, request: bytes) -> None:
    """Three requests at once on one connection: three answers, none mixed."""
    with target.connect(15) as connection:
        connection.sendall(request * 3)
        seen = b""
        while seen.count(b"chat.completion") < 3:
            try:
                more = connection.recv(65536)
            except OSError:
                break
            if not more:
                break
            seen += more
    found = seen.count(b'"finish_reason"')
    trials.expect(found == 3, tried="three requests at once", found=f"{found} answers", wanted="3")


def _many_slow(trials: Trials, target: Target, start: bytes, before: str) -> None:
    """Clients that send their headers or body byte by byte, or read nothing, and leave others alone."""
    slow: list[socket.socket] = []
    try:
        for place in range(60):
            connection = target.connect(5)
            slow.append(connection)
            connection.sendall(
                (start + b"X: " if place % 2 else start + b"Content-Length: 5000\r\n\r\n{")[: 200 + place]
            )
        began = time.monotonic()
        for _ in range(3):
            for connection in slow:
                try:
                    connection.sendall(b"a")
                except OSError:
                    continue
        alive = target.ask("GET", "/health", key="")
        trials.expect(
            alive.status == 200 and time.monotonic() - began < 5,
            tried="60 connections that send byte by byte",
            found=f"/health after {time.monotonic() - began:.1f} s: {alive}",
            wanted="200 at once",
        )
        expect_alive(trials, target, before, "slow connections")
    finally:
        for connection in slow:
            connection.close()
