"""HTTP and server-sent events, cut at every place."""

import pytest

from flyweight.bench.load.http_client import Address
from flyweight.bench.load.http_response import ResponseParser
from flyweight.bench.load.sse import ConnectionCutError, SseParser, StreamError
from flyweight.errors import UsageError

STREAM = b": hello\r\n\r\ndata: one\r\n\r\nevent: x\ndata: two\ndata: lines\n\n: again\ndata:three\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_survive_every_cut(size):
    parser = SseParser()
    found = [data for at in range(0, len(STREAM), size) for data in parser.feed(STREAM[at : at + size])]
    assert found == [b"one", b"two\nlines", b"three", b"[DONE]"]
    assert parser.comments == 2


def test_an_event_without_end_is_refused():
    parser = SseParser()
    parser.feed(b"x" * 16_000_000)
    with pytest.raises(StreamError, match="longer than 16,777,216 bytes"):
        parser.feed(b"x" * 1_000_000)


CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n"
    b"5;name=value\r\nhello\r\n1\r\n \r\n6\r\nworld!\r\n0\r\ntrailer: x\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_chunked_bodies_survive_every_cut(size):
    parser = ResponseParser()
    body = b"".join(piece for at in range(0, len(CHUNKED), size) for piece in parser.feed(CHUNKED[at : at + size]))
    assert (parser.status, parser.headers["x"], body) == (200, "y", b"hello world!")
    assert parser.complete
    assert parser.keeps_connection


def test_a_body_by_length_and_one_by_closing():
    parser = ResponseParser()
    assert parser.feed(b"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\nconnection: close\r\n\r\nab") == [b"ab"]
    assert not parser.complete
    assert parser.feed(b"c") == [b"c"]
    assert parser.complete
    assert not parser.keeps_connection
    parser = ResponseParser()
    assert parser.feed(b"HTTP/1.0 200 OK\r\n\r\nab") == [b"ab"]
    parser.end()
    assert parser.complete


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "is no number"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "no chunk size"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\n", "no chunk size"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n", "longer than it says"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nabc", "longer than its content-length"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000, "longer than 65,536 bytes"),
    ],
)
def test_what_is_no_answer_is_refused(answer, message):
    with pytest.raises(StreamError, match=message):
        ResponseParser().feed(answer)


def test_a_connection_cut_in_the_middle_is_noticed():
    parser = ResponseParser()
    parser.feed(CHUNKED[:-2])
    with pytest.raises(ConnectionCutError, match="in the middle"):
        parser.end()


def test_addresses():
    assert Address.parse("http://localhost:8000/v1").path == ""
    assert Address.parse("https://example.org/models/v1/").path == "/models"
    assert Address.parse("https://example.org").port == 443
    assert Address.parse("http://[::1]:80").authority == "[::1]"


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://x",
        "http://",
        "http://a:99999",
        "http://a b",
        "http://u:p@h",
        "http://h?x=1",
        "http://h/\r\nX: y",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UsageError, match="URL"):
        Address.parse(url)
