"""vLLM inside ``worker_loop``: its engine, stepped by hand. Runs in the peer's own environment (vllm for CPU).

Prefix caching is on, so that a prompt that has been seen stands for a depth.
"""

import importlib
import os
import time
from typing import Any


class Engine:
    """An engine and what it was made with."""

    def __init__(self, options: dict[str, Any]) -> None:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(options["cache_gigabytes"])
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process: its memory and its threads are all there is
        os.environ["OMP_NUM_THREADS"] = str(options["threads"])
        self._vllm = importlib.import_module("vllm")
        self._engine = self._vllm.LLM(
            model=options["model"],
            dtype=options["dtype"],
            skip_tokenizer_init=True,
            enable_prefix_caching=True,
            max_model_len=options["context"],
            max_num_batched_tokens=max(options["step_tokens"], 512),
            enforce_eager=options["eager"],
        ).llm_engine
        self._next_id = 0
        self.facts = {
            "version": str(self._vllm.__version__),
            "settings": f"{options['dtype']}, {'eager' if options['eager'] else 'compiled'}, prefix caching, "
            f"{options['cache_gigabytes']} GB cache",
        }

    def run(self, prompts: list[list[int]], max_tokens: int) -> list[list[float]]:
        """Add all requests, then step until all are finished, counting what each step brought."""
        sampling = self._vllm.SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
        places = {}
        for place, prompt in enumerate(prompts):
            name = str(self._next_id)
            places[name] = place
            self._engine.add_request(name, {"prompt_token_ids": prompt}, sampling)
            self._next_id += 1
        times: list[list[float]] = [[] for _ in prompts]
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            now = time.perf_counter()
            for output in outputs:
                moments = times[places[output.request_id]]
                moments += [now] * (len(output.outputs[0].token_ids) - len(moments))
        return times


def open_engine(options: dict[str, Any]) -> Engine:
    """Load the model in the folder ``options["model"]``."""
    return Engine(options)
