"""Checks of what a server of texts must not take: tensors, media, addresses to fetch, calls into it."""

import contextlib
import socket
import threading
from typing import Any

import psutil

from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.judge import control_answer, expect_alive, judge
from flyweight.serving.doctor.subject import Subject

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def tensor_inputs(subject: Subject, trials: Trials) -> None:
    """CVE-2025-62164, CVE-2026-56340 (GHSA-mcmc-2m55-j8jj) prompt_embeds sparse tensors; CVE-2026-55514 (M-RoPE crash);
    GHSA-pr7f-p5mw-fc87."""
    for route in subject.document.bodies():
        whole = subject.document.smallest(subject.document.bodies()[route])
        for name in (
            "prompt_embeds",
            "input_embeds",
            "embeddings",
            "pixel_values",
            "multi_modal_data",
            "mm_processor_kwargs",
        ):
            for value in ("gASVAAAAAAAAAA==", [[0.0] * 8], {"__torch__": "x"}):
                answer = subject.target.post(route, {**whole, name: value})
                judge(trials, answer, f"{route} with {name}", allowed=(400,))


def media(subject: Subject, trials: Trials) -> None:
    """CVE-2026-22778 (video RCE), -22773 (1×1 image), -34755/-5497 (video frames), -54233 (audio bomb), -55646 (upload
    read before the limit), -12491 (EXIF), -34760; CVE-2025-46722 (image hash collision); GHSA-p6g9-7v3x-m8mv,
    -jcq2-4gch-5qhf, -x6mc-67gf-chw4, -99f2-hwrc-gvq8."""
    before = control_answer(subject.target)
    for part in _parts(PIXEL):
        body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}], "max_tokens": 1}
        answer = subject.target.post("/v1/chat/completions", body)
        judge(trials, answer, f"a part {part['type']}", allowed=(400,))
        says = any(word in answer.message for word in ("text", part["type"]))
        trials.expect(says, tried=f"a part {part['type']}", found=answer.message, wanted="words that say texts only")
    expect_alive(trials, subject.target, before, "media")


def request_forgery(subject: Subject, trials: Trials) -> None:
    """SSRF: vLLM CVE-2025-6242, CVE-2026-24779 (backslash parser differential), CVE-2026-34753; LMDeploy
    CVE-2026-33626: no address in a request is ever asked."""
    calls: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        is_over = threading.Event()

        def listen() -> None:
            while not is_over.is_set():
                with contextlib.suppress(TimeoutError, OSError):
                    calls.append(listener.accept())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        for url in (
            f"http://127.0.0.1:{port}/x.png",
            f"http://127.0.0.1:{port}\\@example.com/",
            f"http://[::1]:{port}/",
        ):
            for part in _parts(url):
                body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
                judge(
                    trials, subject.target.post("/v1/chat/completions", body), f"{part['type']} {url}", allowed=(400,)
                )
            for name in ("model", "user", "cache_salt"):
                body = {"messages": [{"role": "user", "content": url}], "max_tokens": 1, name: url}
                answer = subject.target.post("/v1/chat/completions", body)
                judge(trials, answer, f"{name} = {url}", allowed=(200, 400, 404))
            schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": url}}}
            body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "response_format": schema}
            judge(trials, subject.target.post("/v1/chat/completions", body), f"$ref {url}", allowed=(400,))
        is_over.set()
        thread.join()
    trials.expect(not calls, tried="addresses in requests", found=f"{len(calls)} connections came", wanted="none")


def remote_procedure_calls(subject: Subject, trials: Trials) -> None:
    """llama.cpp CVE-2024-42477/8/9, CVE-2024-41130, CVE-2026-34159; Mooncake CVE-2026-106037 (unverified): the server
    listens on its own port and nowhere else."""
    if subject.process is None:
        return
    process = psutil.Process(subject.process)
    for one in [process, *process.children(recursive=True)]:
        for connection in one.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                host, port = connection.laddr.ip, connection.laddr.port
                trials.expect(
                    port == subject.target.port and host in ("127.0.0.1", "::1"),
                    tried="sockets that listen",
                    found=f"{host}:{port}",
                    wanted=f"127.0.0.1:{subject.target.port} only",
                )


def _parts(url: str) -> list[dict[str, Any]]:
    return [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "input_image", "image_url": url},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_data": url}},
        {"type": "image", "source": {"type": "url", "url": url}},
        {"type": "refusal", "refusal": "x"},
    ]
