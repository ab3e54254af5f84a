"""Checks of bodies as a whole: what is not JSON, what is nested or repeated, what is too large or of another type."""

import gzip
import json

from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.judge import control_answer, expect_alive, judge
from flyweight.serving.doctor.subject import Subject

GOOD = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
DEEP = 10_000
BAD = {
    "nothing": b"",
    "a brace": b"{",
    "text": b"hello",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "NaN": b"NaN",
    "bytes that are no UTF-8": b'{"messages": "\xff\xfe"}',
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "two values": GOOD + GOOD,
    "a trailing comma": GOOD[:-1] + b",}",
    "single quotes": GOOD.replace(b'"', b"'"),
    "comments": b"/* x */" + GOOD,
    "lists 10,000 deep": b"[" * DEEP + b"]" * DEEP,
    "objects 10,000 deep": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a field 10,000 deep": GOOD[:-1] + b', "metadata": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "open lists 1,000,000 deep": b"[" * 1_000_000,
    "a number of a million digits": GOOD[:-1] + b', "seed": ' + b"9" * 1_000_000 + b"}",
    "a million fields": b"{" + b",".join(b'"a%d":1' % place for place in range(200_000)) + b"}",
    "gzip": gzip.compress(GOOD),
}
TYPES = (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/xml",
    "",
    "application/octet-stream",
    "text/json",
    "x" * 1000,
)


def malformed_bodies(subject: Subject, trials: Trials) -> None:
    """Bodies that are not JSON, repeat a name, are nested, or come under another content type; requests that another
    web page can send without asking first (CSRF)."""
    target = subject.target
    before = control_answer(target)
    for route in subject.document.bodies():
        for name, body in BAD.items():
            allowed = (400, 413, 415) if name != "a byte order mark" else (200, 400)
            judge(trials, target.ask("POST", route, body), f"{route}: {name}", allowed=allowed)
            if not subject.full and route != "/v1/chat/completions" and name == "a list":
                break
    chat = "/v1/chat/completions"
    for kind in TYPES:
        answer = target.ask("POST", chat, GOOD, headers={"Content-Type": kind})
        judge(trials, answer, f"content type {kind[:40]!r}", allowed=(400, 415))
    twice = b'{"model": "no such model", ' + GOOD[1:-1] + b', "max_tokens": 2, "max_tokens": 1}'
    judge(trials, target.ask("POST", chat, twice), "a name twice", allowed=(200, 400, 404))
    for encoding in ("gzip", "br", "deflate", "zstd"):
        answer = target.ask("POST", chat, gzip.compress(GOOD), headers={"Content-Encoding": encoding})
        judge(trials, answer, f"content encoding {encoding}", allowed=(400, 415))
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "OPTIONS"):
        judge(trials, target.ask(method, chat, GOOD), method, allowed=(400, 404, 405, 501))
    expect_alive(trials, target, before, "malformed bodies")
