"""Starts a server of our own to examine: the demo model, on a free port of the loopback address, with two keys."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flyweight.errors import UsageError
from flyweight.serving.doctor.target import Target

START_SECONDS = 120.0
END_SECONDS = 40.0
LISTENING = "serving on "


@contextmanager
def own_server(model: str = "demo", *options: str) -> Iterator[tuple[Target, subprocess.Popen[str]]]:
    """A server in a process of its own, which ends with the block.

    Raises:
        UsageError: when it does not start.
    """
    keys = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        command = [sys.executable, *(["-O"] if sys.flags.optimize else []), "-m", "flyweight", "serve", model]
        command += [
            "--embeddings",
            "mean",
            "--port",
            "0",
            "--api-key",
            f"one={keys[0]}",
            "--api-key",
            f"two={keys[1]}",
            *options,
        ]
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", ""))))
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, env={**os.environ, "PYTHONPATH": path})
        try:
            url = _wait(process, log.fileno())
            yield Target(url, key=keys[0], other_key=keys[1]), process
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[str], log: int) -> str:
    """The address that the server says it listens on."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        text = os.pread(log, 1 << 20, 0).decode("utf-8", "replace")
        if LISTENING in text and "\n" in (rest := text.split(LISTENING, 1)[1]):
            return rest.split("\n", 1)[0].strip()
        if process.poll() is not None:
            raise UsageError(f"the server to examine did not start: {text.strip()[-500:]}")
        time.sleep(0.05)
    raise UsageError(f"the server to examine did not start within {START_SECONDS:g} s")
