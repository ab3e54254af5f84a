"""Checks of the guard: without a key nothing but /health and /ready answers, however the path is written."""

from pathlib import Path

from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.judge import is_error_object
from flyweight.serving.doctor.subject import Subject
from flyweight.serving.doctor.target import Target
from flyweight.serving.http.routes.page import PAGE_PATHS

OPEN = {"/health", "/ready", *(path.decode() for path in PAGE_PATHS)}  # the page's files hold nothing of the server
UNGUARDED_ELSEWHERE = (
    "/", "/docs", "/redoc", "/openapi.json", "/metrics", "/version", "/ping", "/load", "/server_info", "/invocations",
    "/pause", "/resume", "/sleep", "/wake_up", "/is_sleeping", "/reset_prefix_cache", "/collective_rpc",
    "/update_weights", "/abort_requests", "/terminate", "/shutdown", "/slots", "/props", "/debug", "/debug/pprof",
    "/api/generate", "/api/tags", "/api/pull", "/rpc", "/v1/models", "/v1", "/v1/requests/x/timeline", "/static/app.js",
    "/favicon.ico", "/.git/config", "/.env", "/generate", "/tokenize", "/tokenizer_info", "/v1/load_lora_adapter",
)  # fmt: skip
SPELLINGS = (
    "//v1/models", "/v1//models", "/./v1/models", "/v1/./models", "/v1/../v1/models", "/health/../v1/models",
    "/health/..%2fv1/models", "/health%2f..%2fv1%2fmodels", "/%76%31/models", "/%2e/v1/models", "/%2e%2e/v1/models",
    "/v1%2fmodels", "/v1/models/", "/v1/models?x=/health", "/v1/models#/health", "/v1/models;/health", "/V1/MODELS",
    "/health;/v1/models", "/health?/v1/models", "/health//v1/models", "\\v1\\models", "/\\v1/models", "/v1\\models",
    "/health/v1/models", "/ready/../v1/models", "/v1/models%00/health", "/health%00/../v1/models",
    "/v1/models%20", "/%2fv1/models", "http://x/v1/models", "http://x/health/../v1/models", "*",
)  # fmt: skip
HOSTS = (
    "", "evil.example", "health", "localhost/health", "localhost/health?", "x/health#", "x@localhost", "a b",
    "localhost:99999999", "[::1", "127.0.0.1\\health", "127.0.0.1/ready?x=", "%2fhealth", "a" * 5000,
)  # fmt: skip


def authorization(subject: Subject, trials: Trials) -> None:
    """CVE-2025-59425 (non-constant-time key compare), CVE-2026-48746 (Host-header bypass through Starlette
    CVE-2026-48710 "BadHost"), unguarded routes by design (vLLM docs/usage/security.md lists /invocations, /pooling,
    /pause, /update_weights, /tokenize …), LMDeploy `/terminate` (opt-in), mistral.rs and Ollama: no auth at all; Ollama
    DNS rebinding CVE-2024-28224."""
    target = subject.target
    if not target.key:
        trials.expect(
            False, tried="the server", found="it has no keys, or none was given", wanted="a key to check with"
        )
        return
    routes = {*subject.document.operations, *(("GET", path) for path in UNGUARDED_ELSEWHERE)}
    for method, path in sorted(routes):
        path = path.replace("{", "").replace("}", "")
        if path in OPEN:
            answer = target.ask(method, path, key="")
            trials.expect(answer.status == 200, tried=f"{method} {path} without a key", found=str(answer), wanted="200")
            continue
        for kind, key in (("no key", ""), ("a wrong key", "wrong-key-wrong-key"), ("half a key", target.key[:-1])):
            answer = target.ask(method, path, b"{}" if method == "POST" else None, key=key)
            trials.expect(
                answer.status == 401 and is_error_object(answer),
                tried=f"{method} {path} with {kind}",
                found=str(answer),
                wanted="401",
            )
    _headers(trials, target)
    _spellings(trials, target)
    _hosts(trials, target)
    _constant_time(trials, subject.package)


def _headers(trials: Trials, target: Target) -> None:
    key = target.key
    for value in ("Bearer", "Bearer ", f"Basic {key}", f"Bearer {key}x", f"Bearer x{key}", "Bearer *", "Bearer null"):
        answer = target.ask("GET", "/v1/models", headers={"Authorization": value}, key="")
        trials.expect(answer.status == 401, tried=f"Authorization: {value[:12]}…", found=str(answer), wanted="401")
    for name in ("X-Forwarded-For", "X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override", "X-Forwarded-Host"):
        answer = target.ask("GET", "/v1/models", headers={name: "/health"}, key="")
        trials.expect(answer.status == 401, tried=f"{name}: /health", found=str(answer), wanted="401")
    answer = target.ask("OPTIONS", "/v1/models", headers={"Origin": "http://evil.example"}, key="")
    allowed = answer.headers.get("access-control-allow-origin")
    trials.expect(allowed is None, tried="another site's page (CORS)", found=f"allowed for {allowed}", wanted="no CORS")


def _spellings(trials: Trials, target: Target) -> None:
    host = f"{target.host}:{target.port}".encode()
    for path in SPELLINGS:
        for version in (b"1.1", b"1.0"):
            line = b"GET " + path.encode() + b" HTTP/" + version
            answer = target.send_raw(line + b"\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n", timeout=10)
            holds = b"max_model_len" not in answer.body and answer.status in (0, 400, 401, 404)
            # A query behind /health belongs to /health.
            is_health = path.startswith("/health?") and answer.status == 200
            trials.expect(holds or is_health, tried=line.decode(), found=str(answer), wanted="401 or 400")
    answer = target.send_raw(b"GET /v1/models HTTP/1.0\r\n\r\n", timeout=10)
    trials.expect(
        answer.status in (0, 400, 401), tried="HTTP/1.0 without a Host", found=str(answer), wanted="401 or 400"
    )


def _hosts(trials: Trials, target: Target) -> None:
    for host in HOSTS:
        head = b"GET /v1/models HTTP/1.1\r\nHost: " + host.encode() + b"\r\nConnection: close\r\n\r\n"
        answer = target.send_raw(head, timeout=10)
        trials.expect(
            answer.status in (0, 400, 401, 431), tried=f"Host: {host[:40]}", found=str(answer), wanted="401 or 400"
        )
    two = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    answer = target.send_raw(two, timeout=10)
    trials.expect(answer.status in (0, 400, 401), tried="two Host headers", found=str(answer), wanted="400")


def _constant_time(trials: Trials, package: Path) -> None:
    """A busy machine hides a difference of nanoseconds, so the code is looked at."""
    text = (package / "serving" / "keys.py").read_text(encoding="utf-8")
    trials.expect(
        "hmac.compare_digest(" in text and "key ==" not in text and "== key" not in text,
        tried="how keys are compared",
        found="by ==",
        wanted="digests, by hmac.compare_digest",
    )
