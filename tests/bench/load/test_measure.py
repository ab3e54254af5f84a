"""What is measured is what a scripted server did: times, counts, failures, and stalls that open loops must show."""

import asyncio
import os
import signal
import threading

import pytest
from support.fake_openai import Event, FakeOpenAI, Reply

from flyweight.bench.load import LoadOptions, LoadReport, measure_load
from flyweight.errors import UsageError

NEAR = 0.03  # seconds that a busy machine may take between writing and reading


def run(server: FakeOpenAI, **given: object) -> LoadReport:
    """A small run without warm-up."""
    settings = {"requests": 4, "warmup": 0, "input_tokens": "12", "output_tokens": "6", **given}
    return measure_load(server.url, LoadOptions(**settings))


def steady_answer(number: int, body: dict) -> Reply:
    """40 ms to the first token, then five gaps of 20 ms."""
    return Reply(events=[Event(delay=0.04), *[Event(delay=0.02)] * 5])


def test_times_are_those_of_the_server():
    with FakeOpenAI(steady_answer) as server:
        report = run(server, requests=6, events=True)
    records = report.stages[0].recording.records
    written = server.answered[-6:]  # the first was the greeting
    assert len(records) == 6
    for record, truth in zip(records, written, strict=True):
        assert record.ttft() == pytest.approx(truth.events[0] - truth.read, abs=NEAR)
        assert record.e2e() == pytest.approx(truth.events[-1] - truth.read, abs=NEAR)
        assert record.tpot == pytest.approx((truth.events[-1] - truth.events[0]) / 5, abs=NEAR / 5)
        assert len(record.event_times) == 6
    figures = report.stages[0].figures
    assert figures.sent["ttft"].p50 >= 0.039
    assert figures.sent["tpot"].mean >= 0.0195
    assert figures.sent["itl"].count == 30
    assert figures.completed == 6
    assert figures.output_tokens == 36
    assert figures.input_tokens == 42  # as usage tells


def test_several_tokens_in_an_event_share_its_gap():
    events = [Event(delay=0.01), *[Event(delay=0.03, text="a b c", tokens=3)] * 4]
    with FakeOpenAI(lambda number, body: Reply(events=events, usage="continuous")) as server:
        figures = run(server).stages[0].figures
    assert figures.output_tokens == 4 * 13
    assert figures.tokens_per_event == {"reported": 4}
    assert figures.sent["itl"].count == 4 * 12
    assert 0.0099 <= figures.sent["itl"].p50 < 0.02  # 30 ms for three tokens; events alone would say 30 ms
    assert figures.sent["tpot"].p50 == pytest.approx(0.01, abs=0.004)


def test_tokens_come_from_usage_and_not_from_events():
    events = [Event(text="ab", tokens=2), Event(text="abcd", tokens=4)]
    with FakeOpenAI(lambda number, body: Reply(events=events)) as server:
        figures = run(server).stages[0].figures
    assert figures.output_tokens == 4 * 6
    assert figures.tokens_per_event == {"estimated": 4}
    assert figures.tokens_from == {"usage": 4}


def test_without_usage_tokens_are_unknown_unless_a_tokenizer_counts(tmp_path):
    from flyweight.demo_model import model_path

    reply = Reply(events=[Event(text="once upon"), Event(text=" a time")], usage="none")
    with FakeOpenAI(lambda number, body: reply) as server:
        blind = run(server).stages[0].figures
        counted = run(server, tokenizer=model_path()).stages[0].figures
    assert blind.output_tokens is None
    assert blind.whole.output_tokens is None
    assert blind.tokens_from == {"unknown": 4}
    assert counted.tokens_from == {"tokenizer": 4}
    assert counted.output_tokens >= 16


def test_a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one():
    """Answers take no time but for 0.4 s in which nothing comes."""

    def script(number: int, body: dict) -> Reply:
        if server.stall_from is None and body["prompt"] != "Hello":
            server.stall_from = server.answered[-1].read
        return Reply(events=[Event()])

    with FakeOpenAI(script, stalls=[(0.2, 0.6)]) as server:
        opened = run(server, load="constant", rate=(50.0,), requests=50).stages[0].figures
        server.stall_from = None
        closed = run(server, requests=None, duration=0.8).stages[0].figures
    assert opened.completed == 50
    assert opened.scheduled["ttft"].p90 > 0.2  # 20 of 50 were due while it stood still
    assert opened.scheduled["ttft"].largest == pytest.approx(0.4, abs=0.1)
    assert closed.sent["ttft"].largest > 0.3
    assert closed.sent["ttft"].p90 < 0.1  # only the one that was in flight saw it


def test_waiting_in_the_client_counts_from_when_a_request_was_due():
    with FakeOpenAI(lambda number, body: Reply(events=[Event(delay=0.05)])) as server:
        figures = run(server, load="constant", rate=(100.0,), requests=10, max_in_flight=1).stages[0].figures
    assert figures.most_in_flight == 1
    assert figures.sent["ttft"].largest < 0.05 + 2 * NEAR
    assert figures.scheduled["ttft"].largest > 0.35  # ten answers one after the other, due within 0.1 s


def test_arrivals_do_not_wait_for_answers():
    with FakeOpenAI(lambda number, body: Reply(events=[Event(delay=0.4)])) as server:
        report = run(server, load="constant", rate=(40.0,), requests=10)
    records = report.stages[0].recording.records
    assert report.stages[0].figures.most_in_flight == 10
    for place, record in enumerate(records, 1):
        assert record.scheduled == pytest.approx(place / 40)
        assert 0 <= record.sent - record.scheduled < NEAR


def test_failures_are_counted_by_reason_and_kept_out_of_latencies():
    replies = [
        Reply(),  # the greeting
        Reply(events=[Event(delay=0.01)] * 3),
        Reply(status=429, headers={"retry-after": "3"}),
        Reply(events=[Event()] * 4, cut_after=2),
        Reply(events=[Event()] * 4, error_after=1),
        Reply(status=500),
        Reply(events=[Event(delay=0.01)] * 3, comments=2),
    ]
    with FakeOpenAI(lambda number, body: replies[number]) as server:
        report = run(server, requests=6)
    figures, records = report.stages[0].figures, report.stages[0].recording.records
    assert (figures.completed, figures.failed) == (2, 4)
    assert figures.success_rate == pytest.approx(1 / 3)
    assert [one.failure for one in records] == ["", "status", "connection", "stream", "status", ""]
    assert records[1].status == 429
    assert records[1].retry_after == 3.0
    assert "closed in the middle" in records[2].error
    assert "the engine fell over" in records[3].error
    assert figures.sent["ttft"].count == 2
    assert report.client["keep-alive comments"] == "2"
    assert {"status: 429: scripted", "status: 500: scripted"} <= set(figures.failures)


def test_an_answer_that_takes_too_long_is_a_timeout():
    slow = Reply(events=[Event(delay=0.01), Event(delay=5.0)])
    with FakeOpenAI(lambda number, body: Reply() if number == 0 else slow) as server:
        report = run(server, requests=1, timeout=0.2)
    record = report.stages[0].recording.records[0]
    assert record.failure == "timeout"
    assert record.end - record.sent == pytest.approx(0.2, abs=0.1)
    assert report.stages[0].figures.completed == 0


def test_connections_are_kept_where_the_server_keeps_them():
    with FakeOpenAI(lambda number, body: Reply()) as server:
        report = run(server, requests=8, concurrency=(2,))
        assert server.connections <= 2
    assert sum(one.connect_seconds is not None for one in report.stages[0].recording.records) <= 1
    with FakeOpenAI(lambda number, body: Reply(close=True)) as server:
        report = run(server, requests=4)
    assert report.stages[0].figures.completed == 4
    assert all(one.connect_seconds is not None for one in report.stages[0].recording.records[1:])


def test_goodput_counts_what_keeps_every_level():
    def script(number: int, body: dict) -> Reply:
        return Reply(events=[Event(delay=0.2 if number % 2 else 0.001), Event(delay=0.001)])

    with FakeOpenAI(script) as server:
        figures = run(server, requests=6, slo=("ttft:100", "tpot:90")).stages[0].figures
    assert figures.good_share == 0.5
    assert figures.goodput == pytest.approx(figures.whole.requests / 2)


def test_a_server_that_knows_fewer_options_is_asked_less():
    with FakeOpenAI(lambda number, body: Reply(), refused=["continuous_usage_stats"]) as server:
        report = run(server)
    assert server.answered[-1].body["stream_options"] == {"include_usage": True}
    assert report.client["usage with every event"] == "the server refuses it"
    with FakeOpenAI(lambda number, body: Reply(), refused=["stream_options"]) as server:
        report = run(server)
    assert "stream_options" not in server.answered[-1].body
    assert report.stages[0].figures.output_tokens is None
    with (
        FakeOpenAI(lambda number, body: Reply(), refused=["ignore_eos"]) as server,
        pytest.raises(UsageError, match=r"unknown field ignore_eos.*--no-ignore-eos"),
    ):
        run(server)


def test_the_chat_endpoint_counts_from_text_and_not_from_the_role():
    with FakeOpenAI(lambda number, body: Reply(events=[Event(delay=0.05), Event(delay=0.01)])) as server:
        report = run(server, endpoint="chat")
    body = server.answered[-1].body
    assert body["messages"][0]["role"] == "user"
    assert "prompt" not in body
    assert report.stages[0].figures.sent["ttft"].smallest >= 0.049


def test_what_is_asked(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with FakeOpenAI(lambda number, body: Reply(), key="secret") as server:
        report = run(server, api_key_variable="MY_KEY", extra_body='{"top_k": 3}', input_tokens="20", temperature=0.5)
        with pytest.raises(UsageError, match="environment variable OPENAI_API_KEY"):
            run(server)
    body = server.answered[-1].body
    assert body["model"] == "fake"
    assert body["max_tokens"] == 6
    assert body["top_k"] == 3
    assert body["ignore_eos"] is True
    assert body["temperature"] == 0.5
    assert len(body["prompt"].split()) == 18  # the server adds two tokens, which /tokenize told
    assert report.server == {"version": "1.2.3", "model id": "fake", "model max_model_len": "4096"}
    assert "secret" not in report.to_json()


def test_lengths_are_calibrated_by_usage_where_there_is_no_tokenize():
    with FakeOpenAI(lambda number, body: Reply(), tokenize=False, words_per_token=2) as server:
        report = run(server, input_tokens="20")
    assert report.client["tokens of prompts by"] == "the server's usage"
    assert len(server.answered[-1].body["prompt"].split()) in range(35, 40)


def test_shared_prefixes_are_the_same_in_every_prompt():
    with FakeOpenAI(lambda number, body: Reply()) as server:
        run(server, requests=8, shared_prefix=12, prefixes=2)
    beginnings = [" ".join(one.body["prompt"].split()[:10]) for one in server.answered[1:]]
    assert len(set(beginnings)) == 2
    assert len({one.body["prompt"] for one in server.answered[1:]}) == 8


def test_the_same_seed_asks_the_same():
    asked = []
    for seed in (1, 1, 2):
        with FakeOpenAI(lambda number, body: Reply()) as server:
            run(server, seed=seed, output_tokens="uniform:2-9")
        asked.append([(one.body["prompt"], one.body["max_tokens"]) for one in server.answered[1:]])
    assert asked[0] == asked[1] != asked[2]


def test_warm_up_is_in_no_figure():
    slow_first = lambda number, body: Reply(events=[Event(delay=0.3 if number < 3 else 0.0)])  # noqa: E731
    with FakeOpenAI(slow_first) as server:
        report = run(server, warmup=2)
    assert report.warm_up == 2
    assert len(server.answered) == 1 + 2 + 4
    assert report.stages[0].figures.sent["ttft"].largest < 0.2


def test_a_trace_is_replayed_on_time(tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"timestamp": 1000, "input_length": 10, "output_length": 3}\n'
        '{"timestamp": 1400, "prompt": "hi", "max_tokens": 2}\n'
    )
    with FakeOpenAI(lambda number, body: Reply()) as server:
        report = run(server, load="trace", trace=trace, trace_unit="ms", trace_speed=2.0, requests=None)
    first, second = report.stages[0].recording.records
    assert second.scheduled - first.scheduled == pytest.approx(0.2)
    assert second.sent - first.sent == pytest.approx(0.2, abs=NEAR)
    assert [one.body["max_tokens"] for one in server.answered[1:]] == [3, 2]
    assert server.answered[2].body["prompt"] == "hi"


def test_a_sweep_ends_where_the_server_no_longer_follows():
    """Two answers at a time, 50 ms each: 40 requests/s at most."""
    import asyncio

    class Narrow(FakeOpenAI):
        async def _stream(self, *arguments):
            self.places = getattr(self, "places", None) or asyncio.Semaphore(2)
            async with self.places:
                return await super()._stream(*arguments)

    with Narrow(lambda number, body: Reply(events=[Event(delay=0.05)])) as server:
        report = run(server, load="sweep", duration=0.5, requests=None, sweep_stages=3, max_in_flight=8)
    labels = [one.stage.label for one in report.stages]
    assert labels[:2] == ["1 in flight", "8 in flight"]
    assert report.stages[1].figures.whole.requests == pytest.approx(38, rel=0.3)
    assert len(labels) >= 3
    rates = [one.stage.rate for one in report.stages[2:]]
    assert rates == sorted(rates)


@pytest.mark.parametrize("has_handlers", [True, False])
def test_an_interrupted_run_keeps_what_it_measured(monkeypatch, has_handlers):
    def refuse(*_given: object) -> None:
        raise NotImplementedError

    if not has_handlers:  # as on Windows
        monkeypatch.setattr(asyncio.SelectorEventLoop, "add_signal_handler", refuse)
        monkeypatch.setattr(asyncio.SelectorEventLoop, "remove_signal_handler", refuse)
    before = signal.getsignal(signal.SIGINT)

    def script(number: int, body: dict) -> Reply:
        if number == 5:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        return Reply(events=[Event(delay=0.02), Event(delay=10.0 if number >= 5 else 0.0)])

    with FakeOpenAI(script) as server:
        report = run(server, requests=50)
    figures = report.stages[0].figures
    assert report.partial
    assert (figures.completed, figures.interrupted, figures.failed) == (4, 1, 0)
    assert report.stages[0].recording.records[-1].failure == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before


def test_no_server_is_said_in_one_line():
    with pytest.raises(UsageError, match=r"no server answers at http://127.0.0.1:9: .*start it, or check the address"):
        measure_load("http://127.0.0.1:9", LoadOptions())


def test_a_busy_client_says_so(monkeypatch):
    """The client's own loop is held up by a slow reader of events."""
    import time

    from flyweight.bench.load.answers import AnswerReader

    read = AnswerReader.read

    def slow(self, now, data):
        time.sleep(0.03)
        read(self, now, data)

    monkeypatch.setattr(AnswerReader, "read", slow)
    with FakeOpenAI(lambda number, body: Reply(events=[Event(delay=0.001)] * 6)) as server:
        report = run(server, requests=4, concurrency=(4,))
    client = report.stages[0].recording.client
    assert client.was_the_limit
    assert client.loop_lag_p99 > 0.02
