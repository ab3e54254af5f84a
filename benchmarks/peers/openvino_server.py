"""A thin HTTP server over OpenVINO GenAI's continuous batching pipeline, so that it can be measured over HTTP.

    PYTHON benchmarks/peers/openvino_server.py MODEL --port 8000 [--threads 2] [--cache-gigabytes 1]

OpenVINO's own model server is no Python package. This stands in for it: ``/v1/models`` and streamed
``/v1/completions``, one thread for each connection, one for the pipeline, an event for each token. What HTTP costs here
is this adapter's, not OpenVINO's. Runs in the peer's environment (openvino, openvino-genai, numpy). It trusts whoever
asks: for measurements on one machine only.
"""

import argparse
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import openvino
import openvino_genai

Answer = SimpleQueue[list[int] | None]  # tokens as they come, then None


class Pipeline:
    """The thread that steps the pipeline: takes requests, and hands each one its tokens."""

    def __init__(self, model: str, *, threads: int, cache_gigabytes: int, step_tokens: int) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = cache_gigabytes
        scheduler.max_num_batched_tokens = step_tokens
        scheduler.max_num_seqs = 256
        scheduler.enable_prefix_caching = True
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            model, scheduler_config=scheduler, device="CPU", properties={"INFERENCE_NUM_THREADS": threads}
        )
        self.tokenizer = self._pipeline.get_tokenizer()
        self._asked: SimpleQueue[tuple[list[int], dict[str, Any], Answer]] = SimpleQueue()
        Thread(target=self._run, daemon=True).start()

    def ask(self, prompt: list[int], body: dict[str, Any]) -> Answer:
        answer: Answer = SimpleQueue()
        self._asked.put((prompt, body, answer))
        return answer

    def _run(self) -> None:
        open_answers: dict[int, tuple[Any, Answer]] = {}
        numbers = count()
        while True:
            # Waits for a request when there is nothing to do, else takes what has come meanwhile.
            while not open_answers or not self._asked.empty():
                prompt, body, answer = self._asked.get()
                number = next(numbers)
                tensor = openvino.Tensor(np.array([prompt], np.int64))
                open_answers[number] = self._pipeline.add_request(number, tensor, _config(body)), answer
            self._pipeline.step()
            for number, (handle, answer) in list(open_answers.items()):
                while handle.can_read():
                    for output in handle.read().values():
                        answer.put(list(output.generated_ids))
                if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                    answer.put(None)
                    del open_answers[number]


class Handler(BaseHTTPRequestHandler):
    """Two routes of OpenAI's API."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    pipeline: Pipeline

    def do_GET(self) -> None:
        found = {"data": [{"id": "openvino", "owned_by": f"openvino-genai {openvino_genai.__version__}"}]}
        body = json.dumps(found).encode()
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["prompt"]
        if isinstance(prompt, str):
            prompt = self.pipeline.tokenizer.encode(prompt).input_ids.data[0].tolist()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self._events(prompt, body):
            data = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def _events(self, prompt: list[int], body: dict[str, Any]) -> Iterator[str]:
        answer, num_tokens = self.pipeline.ask(prompt, body), 0
        while (tokens := answer.get()) is not None:
            num_tokens += len(tokens)
            choice = {"index": 0, "text": self.pipeline.tokenizer.decode(tokens), "finish_reason": None}
            yield json.dumps({"choices": [choice], "usage": _usage(prompt, num_tokens)})
        choice = {"index": 0, "text": "", "finish_reason": "length"}
        yield json.dumps({"choices": [choice], "usage": _usage(prompt, num_tokens)})
        yield "[DONE]"

    def log_message(self, *_: Any) -> None:
        """Nothing: a line for each request would be a cost that is not the peer's."""


def _usage(prompt: list[int], num_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": len(prompt), "completion_tokens": num_tokens, "total_tokens": len(prompt) + num_tokens}


def _config(body: dict[str, Any]) -> Any:
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = body["max_tokens"]
    config.ignore_eos = bool(body.get("ignore_eos"))
    config.do_sample = body.get("temperature", 1.0) > 0
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache-gigabytes", type=int, default=1)
    parser.add_argument("--step-tokens", type=int, default=512)
    arguments = parser.parse_args()
    Handler.pipeline = Pipeline(
        str(arguments.model),
        threads=arguments.threads,
        cache_gigabytes=arguments.cache_gigabytes,
        step_tokens=arguments.step_tokens,
    )
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
