"""This engine inside ``worker_loop``, through its public interface as a user would call it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import flyweight
from flyweight.engine.request import Request
from flyweight.engine.scheduler import StepBudget


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
        """Moments of every token of every prompt, all at once and nothing found from runs before."""
        options = flyweight.SamplingOptions(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        engine = self._model.engine
        budget = StepBudget(tokens=engine.budget.tokens, sequences=len(prompts))
        times: dict[int, list[float]] = {}
        for prompt in prompts:
            times[engine.add(Request(token_ids=tuple(prompt), options=options, prefix_caching=False))] = []
        while engine.has_work:
            for event in engine.step(budget):
                times[event.id] += [time.perf_counter()] * len(event.token_ids)
        return list(times.values())


def open_engine(options: Mapping[str, Any]) -> Engine:
    """Load the model in the folder ``options["model"]``."""
    return Engine(options)
