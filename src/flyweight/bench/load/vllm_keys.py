"""A stage under the key names of ``vllm bench serve``, for tools that read its results.

Only where the meaning is the same: latencies from when requests were sent, rates over the whole stage, and ``itl`` as
the gap between events, whatever tokens these bring. Our own inter-token latency, per token, stands elsewhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flyweight.bench.load.distributions import PERCENTILES, latencies
from flyweight.bench.load.figures import StageFigures
from flyweight.bench.load.recording import RequestRecord
from flyweight.bench.load.stages import Stage

NAMES: Mapping[str, str] = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2el"}


def vllm_keys(stage: Stage, figures: StageFigures, records: Sequence[RequestRecord]) -> dict[str, Any]:
    """The keys whose figures are known."""
    keys: dict[str, Any] = {
        "duration": figures.whole.seconds,
        "completed": figures.completed,
        "failed": figures.failed,
        "num_prompts": len(records),
        "total_input_tokens": figures.input_tokens,
        "total_output_tokens": figures.output_tokens,
        "request_rate": "inf" if stage.rate is None else stage.rate,
        "max_concurrency": stage.concurrency if stage.concurrency is not None else stage.max_in_flight,
        "request_throughput": figures.whole.requests,
        "request_goodput": figures.goodput,
        "output_throughput": figures.whole.output_tokens,
        "total_token_throughput": figures.whole.total_tokens,
    }
    good = [one for one in records if one.succeeded]
    rows = {name: latencies(good, measure) for measure, name in NAMES.items()}
    rows["itl"] = [b - a for one in good for a, b in zip(one.event_times, one.event_times[1:], strict=False)]
    for name, seconds in rows.items():
        if seconds:
            milliseconds = np.asarray(seconds) * 1e3
            keys |= {
                f"mean_{name}_ms": float(milliseconds.mean()),
                f"median_{name}_ms": float(np.median(milliseconds)),
                f"std_{name}_ms": float(milliseconds.std()),
                **{f"p{place}_{name}_ms": float(np.percentile(milliseconds, place)) for place in PERCENTILES},
            }
    return {name: value for name, value in keys.items() if value is not None}
