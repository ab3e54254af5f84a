"""llama-server and a client for it: several streams at once over HTTP, token ids in, tokens counted as they come."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flyweight.bench.peers.base import Setting
from flyweight.bench.peers.processes import EngineProcess, PeerError
from flyweight.bench.tasks import SHORT_PROMPT, ManyStreams, Prompts, Start, stream_figures

SECONDS_TO_START = 300
SECONDS_TO_ANSWER = 900
HOST = "127.0.0.1"


class Server:
    """A running llama-server with ``slots`` places for sequences of ``slot_tokens`` tokens."""

    def __init__(self, program: Path, model: Path, setting: Setting, *, slots: int, slot_tokens: int) -> None:
        self._port = free_port()
        threads = str(setting.threads)
        command = [
            *(str(program), "-m", str(model), "--host", HOST, "--port", str(self._port)),
            *("-t", threads, "-tb", threads, "-np", str(slots), "-c", str(slots * slot_tokens)),
            *("--cache-ram", "0", "--no-webui", "-fa", "on"),
        ]
        self.facts = {"command": " ".join(command), "settings": f"{slots} slots of {slot_tokens} tokens, f16 KV cache"}
        self.process = EngineProcess(command, log=setting.folder / "llama-server.log", environment={})
        try:
            self._wait()
        except BaseException:
            self.process.close()
            raise

    def run(self, prompts: list[list[int]], max_tokens: int) -> list[list[float]]:
        """Send all prompts at once; seconds since then at which each one's tokens came.

        Raises:
            PeerError: a request failed or brought another number of tokens.
        """
        times: list[list[float]] = [[] for _ in prompts]
        failures: list[str] = []
        began = time.perf_counter()

        def ask(place: int) -> None:
            try:
                times[place] = self._ask(prompts[place], max_tokens, began)
            except (OSError, http.client.HTTPException, ValueError, PeerError) as error:
                failures.append(f"{type(error).__name__}: {error}")

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise self.process.error(f"{len(failures)} of {len(prompts)} requests failed, such as {failures[0]}")
        wrong = [len(one) for one in times if len(one) != max_tokens]
        if wrong:
            raise self.process.error(f"{wrong[0]} tokens came where {max_tokens} were asked for")
        return times

    def _ask(self, prompt: list[int], max_tokens: int, began: float) -> list[float]:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=SECONDS_TO_ANSWER)
        try:
            connection.request("POST", "/completion", json.dumps(request_body(prompt, max_tokens)))
            response = connection.getresponse()
            if response.status != 200:
                raise PeerError(f"status {response.status}: {response.read(500).decode(errors='replace')}")
            return token_times(response, began)
        finally:
            connection.close()

    def _wait(self) -> None:
        """Until it answers that it is ready."""
        end = time.perf_counter() + SECONDS_TO_START
        while time.perf_counter() < end:
            if self.process.process.poll() is not None:
                raise self.process.error(f"ended with {self.process.process.returncode}")
            connection = http.client.HTTPConnection(HOST, self._port, timeout=5)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(0.02)
        raise self.process.error(f"not ready after {SECONDS_TO_START} s")


class ServerSession:
    """A server that is open for several streams."""

    def __init__(self, program: Path, model: Path, task: ManyStreams, setting: Setting) -> None:
        self._task = task
        slot_tokens = -(-(task.prompt + task.output + 16) // 256) * 256
        self._server = Server(program, model, setting, slots=task.count, slot_tokens=slot_tokens)
        self.facts: Mapping[str, str] = self._server.facts

    def measure(self, prompts: Prompts) -> dict[str, float]:
        requests = [prompts.draw(self._task.prompt) for _ in range(self._task.count)]
        return stream_figures(self._server.run(requests, self._task.output))

    def pause(self) -> None:
        self._server.process.pause()

    def resume(self) -> None:
        self._server.process.resume()

    def close(self) -> float:
        return self._server.process.close()


class ServerStart:
    """Starts a server anew for each measurement."""

    def __init__(self, program: Path, model: Path, task: Start, setting: Setting) -> None:
        self.facts: Mapping[str, str] = {}
        self._program, self._model, self._task, self._setting = program, model, task, setting
        self._peak = 0.0

    def measure(self, prompts: Prompts) -> dict[str, float]:
        began = time.perf_counter()
        server = Server(self._program, self._model, self._setting, slots=1, slot_tokens=self._task.cache_tokens)
        try:
            server.run([prompts.draw(SHORT_PROMPT)], 1)
            seconds = time.perf_counter() - began
        finally:
            self._peak = max(self._peak, server.process.close())
        self.facts = server.facts
        return {"start": seconds}

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def close(self) -> float:
        return self._peak


def request_body(prompt: list[int], max_tokens: int) -> dict[str, Any]:
    """A /completion request: greedy by the cheapest sampler, no stop, no reuse of earlier prompts."""
    return {
        "prompt": prompt,
        "n_predict": max_tokens,
        "stream": True,
        "ignore_eos": True,
        "cache_prompt": False,
        "samplers": ["top_k"],
        "top_k": 1,
    }


def token_times(lines: Iterable[bytes], began: float) -> list[float]:
    """Seconds since ``began`` at which the tokens of a stream of server-sent events arrived, as it is read.

    Counted by ``tokens_predicted``: tokens that end within a letter come without text, ids and event of their own.
    """
    times: list[float] = []
    for line in lines:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise PeerError(str(event["error"]))
        times += [time.perf_counter() - began] * (event.get("tokens_predicted", 0) - len(times))
        if event.get("stop"):
            break
    return times


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        port: int = one.getsockname()[1]
    return port
