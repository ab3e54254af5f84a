import pytest

from flyweight.bench.load.options import LoadOptions
from flyweight.bench.load.slo import ServiceLevel, parse_levels
from flyweight.bench.load.stages import plan_stages
from flyweight.errors import UsageError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"load": "poisson"}, "load poisson needs a rate"),
        ({"rate": (1.0,)}, "rate does not belong to load concurrency; it goes with poisson, constant, gamma, ramp"),
        ({"load": "poisson", "rate": (0.0,)}, "rate=0.0 is not allowed"),
        ({"load": "poisson", "rate": (float("nan"),)}, "rate=nan is not allowed"),
        ({"load": "poisson", "rate": (1.0,), "burstiness": 2.0}, "burstiness does not belong to load poisson"),
        ({"load": "ramp", "rate": (1.0,)}, "two different rates"),
        ({"load": "trace"}, "needs a trace file"),
        ({"concurrency": (0,)}, "concurrency=0 is not allowed; choose from 1 to 65536"),
        ({"max_in_flight": 3}, "max_in_flight does not belong to load concurrency"),
        ({"requests": 0}, "requests=0 is not allowed"),
        ({"duration": -1.0}, "duration=-1.0 is not allowed"),
        ({"temperature": float("inf")}, "temperature=inf is not allowed"),
        ({"input_tokens": "many"}, "length 'many' is not understood"),
        ({"slo": ("ttfb:3",)}, "names no measure; known: ttft, tpot, e2e; did you mean 'ttft'"),
        ({"slo": ("ttft:0",)}, "no positive limit; write milliseconds, such as ttft:500"),
        ({"slo": ("ttft:1", "ttft:2")}, "limit a measure twice"),
        ({"prompts": "file"}, "belong together"),
        ({"prompts": "ids"}, "needs a tokenizer"),
        ({"extra_body": "{"}, "is no JSON"),
        ({"extra_body": "[]"}, "no JSON object"),
        ({"extra_body": '{"stream": false}'}, "sets stream, which this program sets itself"),
    ],
)
def test_what_cannot_be_done_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        LoadOptions(**given)


def test_levels():
    assert parse_levels(["ttft:500", "e2el:2000.5"])[1] == ServiceLevel(measure="e2e", milliseconds=2000.5)


def test_stages():
    assert [one.label for one in plan_stages(LoadOptions(concurrency=(1, 8)))] == ["1 in flight", "8 in flight"]
    assert plan_stages(LoadOptions())[0].requests == 100
    first, second = plan_stages(LoadOptions(load="poisson", rate=(2.0, 4.0), duration=50.0))
    assert first.duration == 50.0
    assert len(second.times) > len(first.times) > 50
    ramp = plan_stages(LoadOptions(load="ramp", rate=(0.0, 4.0), duration=30.0))[0]
    assert ramp.label == "0 to 4 requests/s"
    assert ramp.rate == 2.0
    with pytest.raises(UsageError, match=r"no request comes in 0.1 s at 1 requests/s"):
        plan_stages(LoadOptions(load="constant", rate=(1.0,), duration=0.1))
