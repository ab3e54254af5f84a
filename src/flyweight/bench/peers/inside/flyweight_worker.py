"""This engine inside ``worker_loop``, through its public interface as a user would call it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import flyweight


class Engine:
    """A loaded model and what it was loaded with."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._model = flyweight.load(
            options["model"],
            compute=options["compute"],
            kv_dtype=options["kv_dtype"],
            cache_tokens=options["cache_tokens"],
        )
        self.facts = {"version": flyweight.__version__, "settings": "; ".join(self._model.description)}

    def run(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[float]]:
        """Moments of every token of every prompt."""
        options = flyweight.SamplingOptions(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        answers = [self._model._answer(prompt, options) for prompt in prompts]
        times: list[list[float]] = [[] for _ in prompts]
        for index, _ in self._model._run(answers, batch_size=len(prompts)):
            times[index].append(time.perf_counter())
        return times


def open_engine(options: Mapping[str, Any]) -> Engine:
    """Load the model in the folder ``options["model"]``."""
    return Engine(options)
