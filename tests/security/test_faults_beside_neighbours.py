"""Faults put into one request while others are in the middle of their answers: these end with every word that they
have when they run alone, the faulty one with an error object, and health says the truth."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.served import served

import flyweight
from flyweight import load
from flyweight.demo_model import model_path
from flyweight.engine import sampling
from flyweight.engine.grammar.matcher import GrammarConstraint
from flyweight.errors import KernelError
from flyweight.serving.doctor.own_server import own_server

TOKENS = 48
PROMPTS = ("2 + 2 =", "the gate guild home job", "Falk works as a baker")
MARKED = "BREAK"
BAD = {"messages": [{"role": "user", "content": MARKED}], "temperature": 0, "max_tokens": 24, "ignore_eos": True}


def good(prompt: str) -> dict:
    return {**BAD, "messages": [{"role": "user", "content": prompt}], "max_tokens": TOKENS, "stream": True}


def require(holds: bool, what: object) -> None:
    """As assert, under ``python -O`` too."""
    if not holds:
        pytest.fail(str(what))


def streamed(client: httpx.Client, prompt: str) -> str:
    """The text of a streamed answer; an error in it, or an end without [DONE], is in the text."""
    found = ""
    with client.stream("POST", "/v1/chat/completions", json=good(prompt)) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                found += "" if line in ("", "data: [DONE]") else f"<{line}>"
                continue
            event = json.loads(line.removeprefix("data: "))
            found += event["choices"][0]["delta"].get("content") or "" if "choices" in event else f"<{line}>"
    return found if line == "" or line == "data: [DONE]" else f"{found}<{line}>"


class Neighbours:
    """A server on which three requests run; ``beside`` puts a faulty one in their middle.

    Attributes:
        together: the most sequences that one step has computed since ``beside`` was called.
    """

    def __init__(self, server, model) -> None:
        self.server, self.model = server, model
        self.service = server.state.services["demo"]
        with server.client() as client:
            self.alone = [streamed(client, prompt) for prompt in PROMPTS]
        self.together = 0

    def beside(self, monkeypatch, bad: dict) -> httpx.Response:
        """What the faulty request gets. It is sent when the others have made a part of their answers, and no step is
        made before it has come."""
        found: list[str] = [""] * len(PROMPTS)
        answers: list[httpx.Response] = []
        all_run, refused = threading.Event(), threading.Event()
        forward, self.together = self.model.forward, 0

        def gate(batch):
            begun = time.monotonic()  # the first must not have ended before the last begins
            while len(self.service._answers) < len(PROMPTS) and not all_run.is_set() and time.monotonic() < begun + 60:
                time.sleep(0.001)
            if self.service.metrics.running == len(PROMPTS) and not all_run.is_set():
                all_run.set()
                deadline = time.monotonic() + 60
                while (
                    len(self.service._answers) == len(PROMPTS) and not refused.is_set() and time.monotonic() < deadline
                ):
                    time.sleep(0.001)
            self.together = max(self.together, batch.num_sequences)
            return forward(batch)

        monkeypatch.setattr(self.model, "forward", gate)

        def read(place: int) -> None:
            with self.server.client() as client:
                found[place] = streamed(client, PROMPTS[place])

        def ask() -> None:
            require(all_run.wait(60), "the neighbours do not run")
            with self.server.client() as client:
                answers.append(client.post("/v1/chat/completions", json=bad))
            refused.set()

        threads = [threading.Thread(target=read, args=(place,)) for place in range(len(PROMPTS))]
        threads.append(threading.Thread(target=ask))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        require(found == self.alone, (found, self.alone))
        require(len(answers) == 1, "the faulty request was not answered")
        return answers[0]

    def is_well(self) -> None:
        """Nothing is held, nothing contradicts itself, and health says so."""
        deadline = time.monotonic() + 10
        while self.service.metrics.running + self.service.metrics.waiting and time.monotonic() < deadline:
            time.sleep(0.01)
        self.service._worker.run(lambda engine: engine.check_integrity()).result(10)
        held = self.service._worker.run(lambda engine: engine.metrics().held_blocks).result(10)
        require(held == 0, f"{held} blocks are held")
        with self.server.client() as client:
            for path in ("/health", "/ready"):
                require(client.get(path).status_code == 200, client.get(path).text)

    def one_fails(self, monkeypatch, bad: dict, *, in_the_engine: bool = True) -> httpx.Response:
        """The faulty request ends with an error object that tells nothing of the insides, the others as ever."""
        failed = self.beside(monkeypatch, bad)
        require(failed.status_code in (400, 500) and failed.json()["error"]["message"], failed.text)
        require("Traceback" not in failed.text and ".py" not in failed.text, failed.text)
        if in_the_engine:
            require(self.together == len(PROMPTS) + 1, f"{self.together} sequences were in a step together")
        self.is_well()
        return failed


@pytest.fixture(scope="module")
def neighbours():
    # The same bits in any company: without it a neighbour's words could differ by rounding, and no fault would show.
    model = load(model_path(), batch_invariant=True)
    with served({"demo": model}) as server:
        yield Neighbours(server, model)


def _raise(*_given, **_named):
    raise RuntimeError("a fault put in")


def test_sampler_that_raises(neighbours, monkeypatch):
    real = sampling.kernels.sample

    def sample(logits, rules):
        if any(rule.temperature == 1.75 for rule in rules):
            _raise()
        return real(logits, rules)

    monkeypatch.setattr(sampling.kernels, "sample", sample)
    neighbours.one_fails(monkeypatch, {**BAD, "temperature": 1.75})


@pytest.mark.parametrize("method", ["read", "complete"])
def test_detokenizer_that_raises(neighbours, monkeypatch, method):
    prepare = type(neighbours.model).ask

    def ask(self, prompt, options=None, **more):
        asked = prepare(self, prompt, options, **more)
        if asked.request.options.stop == ("never",):
            for answer in asked.answers:
                monkeypatch.setattr(answer, method, _raise)
        return asked

    monkeypatch.setattr(type(neighbours.model), "ask", ask)
    neighbours.one_fails(monkeypatch, {**BAD, "stop": ["never"]})


@pytest.mark.parametrize("method", ["render_chat", "encode"])
def test_template_or_tokenizer_that_raises(neighbours, monkeypatch, method):
    tokenizer = type(neighbours.model.tokenizer)
    real = getattr(tokenizer, method)

    def broken(self, given, **more):
        if MARKED in str(given):
            _raise()
        return real(self, given, **more)

    monkeypatch.setattr(tokenizer, method, broken)
    neighbours.one_fails(monkeypatch, BAD, in_the_engine=False)


def test_grammar_that_cannot_be_compiled(neighbours, monkeypatch):
    bad = {**BAD, "structured_outputs": {"regex": "["}}
    neighbours.one_fails(monkeypatch, bad, in_the_engine=False)


def test_grammar_whose_compiler_raises(neighbours, monkeypatch):
    monkeypatch.setattr(neighbours.model.grammars, "compile", _raise)
    bad = {**BAD, "structured_outputs": {"regex": "[a-z]{20}"}}
    neighbours.one_fails(monkeypatch, bad, in_the_engine=False)


@pytest.mark.parametrize("method", ["masks", "push"])
def test_grammar_that_raises_in_mid_answer(neighbours, monkeypatch, method):
    monkeypatch.setattr(GrammarConstraint, method, _raise)
    bad = {**BAD, "structured_outputs": {"regex": "[a-z]{21}"}}
    neighbours.one_fails(monkeypatch, bad)


def sequences_with(batch, token: int) -> list[int]:
    """The sequences of a batch in whose tokens this one is."""
    starts = batch.query_starts
    return [
        number for number in range(batch.num_sequences) if token in batch.token_ids[starts[number] : starts[number + 1]]
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_of_one_request_that_are_not_finite(neighbours, monkeypatch, value):
    marker = neighbours.model.tokenizer.encode(MARKED, add_special_tokens=False)[-1]
    real = neighbours.model.forward

    def forward(batch):
        logits = real(batch)
        for number in sequences_with(batch, marker):
            rows = (batch.output_rows >= batch.query_starts[number]) & (
                batch.output_rows < batch.query_starts[number + 1]
            )
            logits = logits.copy()
            logits[rows] = value
        return logits

    monkeypatch.setattr(neighbours.model, "forward", forward)
    failed = neighbours.one_fails(monkeypatch, BAD)
    require("not finite" in failed.json()["error"]["message"], failed.text)


def test_kernel_that_raises_for_one_request(neighbours, monkeypatch):
    """The forward pass fails whenever one request is in it: the engine finds out which, and says so meanwhile."""
    marker = neighbours.model.tokenizer.encode(MARKED, add_special_tokens=False)[-1]
    real, before = neighbours.model.forward, neighbours.service._worker.pulse.failed_steps

    def forward(batch):
        if sequences_with(batch, marker):
            raise KernelError("a fault put in")
        return real(batch)

    monkeypatch.setattr(neighbours.model, "forward", forward)
    neighbours.one_fails(monkeypatch, BAD)
    require(neighbours.service._worker.pulse.failed_steps > before, "failed steps are not counted")


def test_kernel_that_raises_once_costs_nobody_anything(neighbours, monkeypatch):
    real, faults = neighbours.model.forward, []

    def forward(batch):
        if batch.num_sequences == len(PROMPTS) + 1 and not faults:
            faults.append(batch)
            raise KernelError("a fault put in")
        return real(batch)

    monkeypatch.setattr(neighbours.model, "forward", forward)
    whole = neighbours.beside(monkeypatch, BAD)
    require(whole.status_code == 200 and len(faults) == 1, whole.text)
    neighbours.is_well()


def test_kernel_that_is_broken_for_good_is_told_by_health(neighbours, monkeypatch):
    """Everybody fails then, and health says so until a step succeeds."""

    def forward(_batch):
        raise KernelError("a fault put in")

    with monkeypatch.context() as patch, neighbours.server.client() as client:
        patch.setattr(neighbours.model, "forward", forward)
        for _ in range(4):
            failed = client.post("/v1/chat/completions", json=BAD)
            require(failed.status_code == 500 and "message" in failed.json()["error"], failed.text)
        ill = client.get("/health")
        require(ill.status_code == 503 and "failed one after another" in ill.text, ill.text)
        require(client.get("/ready").status_code == 503, "ready")
    with neighbours.server.client() as client:
        require(streamed(client, PROMPTS[0]) == neighbours.alone[0], "the answer after the fault")
    neighbours.is_well()


def refuses_while_it_drains(target) -> None:
    """Streams that only outlive the signal by a web server's own grace would find its door shut already."""
    deadline = time.monotonic() + 10
    while (ready := target.ask("GET", "/ready", key="")).status != 503:
        require(ready.status == 200 and time.monotonic() < deadline, f"/ready says {ready} after the signal")
    require("shutting down" in ready.body.decode(), ready)
    require(target.ask("GET", "/health", key="").status == 200, "/health while it drains")
    refused = target.post("/v1/chat/completions", {**BAD, "max_tokens": 1})
    require(refused.status == 503 and "shutting down" in refused.message, refused)
    after = {name.lower(): value for name, value in refused.headers.items()}.get("retry-after", "")
    require(after.isdigit() and int(after) >= 1, f"Retry-After is {after!r}")
    target.close()


def test_sigterm_in_the_middle_of_several_streams(neighbours):
    with own_server("demo", "--batch-invariant") as (target, process):
        headers = {"Authorization": f"Bearer {target.key}"}
        found: list[str] = [""] * len(PROMPTS)
        running = threading.Barrier(len(PROMPTS) + 1)

        def read(place: int) -> None:
            with httpx.Client(base_url=target.url, headers=headers, timeout=60) as client:
                body = {**good(PROMPTS[place]), "max_tokens": 400}
                with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    for number, line in enumerate(answer.iter_lines()):
                        found[place] += line
                        if number == 4:  # the role, and a token
                            running.wait(30)

        threads = [threading.Thread(target=read, args=(place,)) for place in range(len(PROMPTS))]
        for thread in threads:
            thread.start()
        running.wait(60)
        process.send_signal(signal.SIGTERM)
        refuses_while_it_drains(target)
        for thread in threads:
            thread.join(90)
        for one in found:
            require(one.endswith("data: [DONE]") and '"finish_reason":"length"' in one, one[-300:])
        require(process.wait(30) == 0, "exit code")


def lines_lost(client: httpx.Client) -> float:
    """What the server's metrics tell of lines of the log that could not be written."""
    name = "flyweight:request_log_lines_lost_total "
    values = [line.removeprefix(name) for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(values[0]) if values else 0.0


def test_full_disk_for_the_log_costs_no_word(neighbours):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(Path(flyweight.__file__).parents[1])}
    command = [sys.executable, "-m", "flyweight", "serve", "demo", "--port", str(port), "--batch-invariant"]
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(command, stdout=full, stderr=full, env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            deadline = time.monotonic() + 60
            while True:
                try:
                    require(client.get("/health").status_code == 200, "health")
                    break
                except httpx.ConnectError:
                    require(time.monotonic() < deadline and process.poll() is None, "the server ended")
                    time.sleep(0.1)
            found: list[str] = [""] * len(PROMPTS)

            def read(place: int) -> None:
                found[place] = streamed(client, PROMPTS[place])

            threads = [threading.Thread(target=read, args=(place,)) for place in range(len(PROMPTS))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(90)
            require(found == neighbours.alone, (found, neighbours.alone))
            require(client.get("/health").status_code == 200, "health")
            # Each answer has a line, and so has its HTTP request: all are lost, and the loss is told.
            while lines_lost(client) < 2 * len(PROMPTS):
                require(time.monotonic() < deadline, f"{lines_lost(client):g} lost lines are counted")
                time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(30)
