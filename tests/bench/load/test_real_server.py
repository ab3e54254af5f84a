"""The load generator against this package's own server."""

import pytest
from support.served import served

from flyweight.bench.load import LoadOptions, LoadReport, measure_load
from flyweight.demo_model import model_path


@pytest.fixture(scope="module")
def server():
    with served() as found:
        yield found


def run(url: str, **given: object) -> LoadReport:
    settings = {"requests": 12, "warmup": 2, "input_tokens": "60", "output_tokens": "8", **given}
    return measure_load(url, LoadOptions(**settings))


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_both_endpoints(server, endpoint):
    report = run(server.url, endpoint=endpoint, concurrency=(4,))
    figures = report.stages[0].figures
    assert figures.completed == 12
    assert figures.output_tokens == 12 * 8
    assert figures.tokens_from == {"usage": 12}
    assert figures.tokens_per_event == {"reported": 12}
    assert figures.short_answers == 0
    assert figures.input_mean == pytest.approx(60, abs=4)
    assert report.server["model id"] == "demo"
    assert report.server["model max_model_len"] == "512"
    assert report.client["usage with every event"] == "asked for"


def test_lengths_by_tokenizer_and_ids_are_what_the_server_counts(server):
    figures = run(server.url, prompts="ids", tokenizer=model_path()).stages[0].figures
    assert figures.input_tokens in (12 * 60, 12 * 61)  # with or without the begin-of-text token
    figures = run(server.url, tokenizer=model_path()).stages[0].figures
    assert figures.input_mean == pytest.approx(60, abs=2)


def test_an_open_loop_with_a_shared_prefix(server):
    report = run(server.url, load="poisson", rate=(40.0,), shared_prefix=64, requests=20)
    figures = report.stages[0].figures
    assert figures.completed == 20
    assert figures.cached_tokens is not None
    assert figures.cached_tokens >= 19 * 32
    assert figures.scheduled["ttft"].mean >= figures.sent["ttft"].mean
