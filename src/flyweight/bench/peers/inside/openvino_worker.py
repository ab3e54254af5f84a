"""OpenVINO GenAI inside ``worker_loop``: its continuous batching pipeline, stepped by hand.

Runs in the peer's own environment (openvino, openvino-genai, numpy). Prefix caching is on, so that a prompt that has
been seen stands for a depth; the precision of the KV cache is OpenVINO's default for this CPU unless
``kv_precision`` names one.
"""

import importlib
import time
from typing import Any


class Engine:
    """A pipeline and what it was made with."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._genai = importlib.import_module("openvino_genai")
        self._runtime = importlib.import_module("openvino")
        scheduler = self._genai.SchedulerConfig()
        scheduler.cache_size = options["cache_gigabytes"]
        scheduler.max_num_batched_tokens = options["step_tokens"]
        scheduler.max_num_seqs = 256
        scheduler.enable_prefix_caching = True
        properties = {"INFERENCE_NUM_THREADS": options["threads"]}
        if options["kv_precision"]:
            properties["KV_CACHE_PRECISION"] = options["kv_precision"]
        self._pipeline = self._genai.ContinuousBatchingPipeline(
            options["model"], scheduler_config=scheduler, device="CPU", properties=properties
        )
        self._next_id = 0
        self.facts = {
            "version": str(self._genai.__version__),
            "settings": f"continuous batching, {scheduler.cache_size} GB cache, {scheduler.max_num_batched_tokens} "
            f"tokens a step, prefix caching, KV cache {options['kv_precision'] or 'default (u8 on CPU)'}",
        }

    def run(self, prompts: list[list[int]], max_tokens: int) -> list[list[float]]:
        """Add all requests, then step until all are finished, reading what each step brought."""
        config = self._genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.ignore_eos = True
        config.do_sample = False
        handles = []
        for prompt in prompts:
            tensor = self._runtime.Tensor(_matrix(prompt))
            handles.append(self._pipeline.add_request(self._next_id, tensor, config))
            self._next_id += 1
        times: list[list[float]] = [[] for _ in prompts]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            now = time.perf_counter()
            for handle, moments in zip(handles, times, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        moments += [now] * len(output.generated_ids)
        return times


def open_engine(options: dict[str, Any]) -> Engine:
    """Load the model in the folder ``options["model"]``."""
    return Engine(options)


def _matrix(prompt: list[int]) -> Any:
    return importlib.import_module("numpy").array([prompt], dtype="int64")
