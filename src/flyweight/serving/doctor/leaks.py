"""Checks of what answers and logs tell: nothing of the server's insides, no other client's words, no forged lines."""

import os

from flyweight.demo_model import model_path
from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.judge import INSIDES, judge
from flyweight.serving.doctor.subject import Subject

FORGED = "x\r\n2026-01-01 00:00:00 INFO forged line\r\nSet-Cookie: a=b"
TELLING_HEADERS = ("server", "x-powered-by", "via")
NAMES = (
    "../../etc/passwd", "/etc/passwd", "..\\..\\windows\\win.ini", "demo/../../x", "%2e%2e%2f", "file:///etc/passwd",
    "https://evil.example/model", "demo\x00", "demo\r\nX: y", "~root", "${HOME}", "$(id)", "{{ 7 * 7 }}", "a" * 255,
)  # fmt: skip


def information_leaks(subject: Subject, trials: Trials) -> None:
    """CVE-2026-54236, CVE-2026-73555; log injection by CR/LF in a request id or user."""
    target = subject.target
    for path in ("/nowhere", "/v1/models/none", "/v1/models/../../etc/passwd", "/v1/chat/completions", "/%ff%fe"):
        judge(trials, target.ask("GET", path), f"GET {path}", allowed=(400, 404, 405))
    answer = target.ask("GET", "/v1/models")
    trials.expect(INSIDES.search(answer.body) is None, tried="/v1/models", found="a path", wanted="no path")
    for name in TELLING_HEADERS:
        found = answer.headers.get(name)
        trials.expect(not found, tried=f"the header {name}", found=str(found), wanted="none")
    for field in ("user", "model", "cache_salt"):
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, field: FORGED}
        answer = target.post("/v1/chat/completions", body)
        judge(trials, answer, f"line breaks in {field}", allowed=(200, 400, 404))
        trials.expect(
            "set-cookie" not in answer.headers and not any(ord(one) < 32 for one in answer.message),
            tried=f"line breaks in {field}",
            found=str(answer),
            wanted="no header and no line of its own",
        )
    host = f"{target.host}:{target.port}"
    for given in ("a\rb", "x" * 5000, "\x1b[31mred", "é" * 40, "${jndi:ldap://x}", "../../x", ""):
        guard = f"Host: {host}\r\nAuthorization: Bearer {target.key}\r\nConnection: close\r\n"
        raw = f"GET /v1/models HTTP/1.1\r\n{guard}X-Request-Id: {given}\r\n\r\n"
        answer = target.send_raw(raw.encode("utf-8"), timeout=10)
        told = answer.headers.get("x-request-id", "")
        trials.expect(
            answer.status in (0, 200, 400, 431) and len(told) <= 64 and (not given or given not in told),
            tried=f"a request id {given[:20]!r}",
            found=f"{answer.status}, id {told[:40]!r}",
            wanted="an id of the server's own",
        )


def path_traversal(subject: Subject, trials: Trials) -> None:
    """Ollama CVE-2024-37032 (Probllama), SGLang CVE-2026-7302, llama.cpp slot save file names."""
    # A folder that there is and could be loaded: a server that opens what a name leads to answers.
    checkpoint = model_path()
    names = (str(checkpoint), os.path.relpath(checkpoint), f"demo/../..{checkpoint}", *NAMES)
    for route in subject.document.bodies():
        whole = subject.document.smallest(subject.document.bodies()[route])
        for name in names if subject.full or route == "/v1/chat/completions" else names[:5]:
            answer = subject.target.post(route, {**whole, "model": name})
            judge(trials, answer, f"{route} with the model {name[:200]!r}", allowed=(400, 404))
    for name in names:
        path = "/v1/models/" + "".join(f"%{byte:02x}" for byte in name.encode())
        judge(trials, subject.target.ask("GET", path), f"GET /v1/models/{name[:200]!r}", allowed=(400, 404))
