"""This engine inside ``worker_loop``: requests added at once, then steps until all have ended."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import flyweight
from flyweight.engine.preparing import WeightOptions
from flyweight.engine.request import Request


class Engine:
    """A loaded model and what it was loaded with."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        model = flyweight.load(
            options["model"],
            compute=options["compute"],
            kv_dtype=options["kv_dtype"],
            cache_tokens=options["cache_tokens"],
            weights=WeightOptions(head=options["head"]),
            tokenizer="lazy",
        )
        self._engine = model.engine
        self.facts = {"version": flyweight.__version__, "settings": "; ".join(model.description)}

    def run(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[float]]:
        """Moments of every token of every prompt."""
        options = flyweight.SamplingOptions(temperature=0.0, max_tokens=max_tokens, ignore_eos=True).with_defaults(
            flyweight.SamplingOptions()
        )
        times: dict[int, list[float]] = {}
        for prompt in prompts:
            times[self._engine.add(Request(token_ids=tuple(prompt), options=options))] = []
        while self._engine.has_work:
            events = self._engine.step()
            now = time.perf_counter()
            for event in events:
                if event.error is not None:
                    raise event.error
                times[event.id] += [now] * len(event.token_ids)
        return list(times.values())


def open_engine(options: Mapping[str, Any]) -> Engine:
    """Load the model in the folder ``options["model"]``."""
    return Engine(options)
