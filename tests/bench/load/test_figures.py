"""Figures of records made by hand; results written, read and compared."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from flyweight.bench.load import LoadReport, compare_loads, read_report
from flyweight.bench.load.compare_report import comparison_page, comparison_table
from flyweight.bench.load.distributions import describe, describe_weighted, interval, resampled
from flyweight.bench.load.drive import StageRecording
from flyweight.bench.load.recording import RequestRecord
from flyweight.bench.load.report import report_page, report_remarks, report_tables
from flyweight.bench.load.result import make_stage_result
from flyweight.bench.load.stages import Stage
from flyweight.bench.load.watch import ClientFigures
from flyweight.errors import DataError, UsageError
from flyweight.reporting import render_page

QUIET = ClientFigures(
    loop_lag_mean=0.0,
    loop_lag_p99=0.001,
    loop_lag_max=0.002,
    cpu_share=0.1,
    late_sends_p99=0.0,
    num_cores=2,
    verdicts=(),
)


def record(number: int, *, ttft: float = 0.2, gap: float = 0.05, tokens: int = 5, **more: object) -> RequestRecord:
    """Due every 0.1 s, sent 10 ms late."""
    due = number * 0.1
    times = [due + 0.01 + ttft + gap * place for place in range(tokens)]
    return RequestRecord(
        **{
            "number": number,
            "scheduled": due,
            "sent": due + 0.01,
            "first_token": times[0],
            "last_token": times[-1],
            "end": times[-1] + 0.001,
            "status": 200,
            "input_tokens": 10,
            "output_tokens": tokens,
            "tokens_from": "usage",
            "tokens_per_event": "one each",
            "event_times": times,
            "event_tokens": [1.0] * tokens,
            **more,
        }
    )


def report(records: list[RequestRecord], *, client: ClientFigures = QUIET, **more: object) -> LoadReport:
    seconds = max(one.end for one in records)
    recording = StageRecording(
        records=records, offered=records[-1].scheduled, seconds=seconds, interrupted=False, client=client
    )
    stage = Stage(label="10 requests/s", rate=10.0, requests=len(records))
    options = {"slo": ["ttft:250", "tpot:60"], "seed": 0, "load": "constant", "rate": [10.0], "events": True}
    settings = {"options": options, "partial": False, "model": "m", **more}
    return LoadReport(
        **{
            "url": "http://x",
            "date": "d",
            "flyweight_version": "0",
            "machine": "cpu, 2 cores",
            "client": {},
            "server": {"version": "1"},
            "warm_up": 1,
            **settings,
            "stages": (make_stage_result(stage, recording, tuple(settings["options"]["slo"]), seed=0),),
        }
    )


def test_figures_of_even_requests():
    figures = report([record(number) for number in range(40)]).stages[0].figures
    assert figures.sent["ttft"].mean == pytest.approx(0.2)
    assert figures.scheduled["ttft"].mean == pytest.approx(0.21)
    assert figures.sent["e2e"].p95 == pytest.approx(0.4)
    assert figures.sent["tpot"].p99 == pytest.approx(0.05)
    assert figures.sent["itl"].count == 160
    assert figures.sent["itl"].mean == pytest.approx(0.05)
    assert figures.whole.requests == pytest.approx(40 / 4.311)
    assert figures.whole.output_tokens == pytest.approx(200 / 4.311)
    assert figures.steady.output_tokens == pytest.approx(50, rel=0.02)  # 10 requests/s of 5 tokens
    low, high = figures.output_interval
    assert low <= figures.steady.output_tokens <= high
    assert figures.good_share == 1.0
    assert figures.most_in_flight == 5


def test_levels_count_from_when_a_request_was_due():
    late = [record(number, ttft=0.245) for number in range(10)]  # 245 ms from being sent, 255 ms from being due
    assert report(late).stages[0].figures.good_share == 0.0


def test_distributions_and_their_intervals():
    rng = np.random.default_rng(1)
    values = rng.exponential(1.0, 400).tolist()
    found = describe(values, seed=0)
    assert found.p90 == pytest.approx(np.percentile(values, 90))
    low, high = found.intervals["mean"]
    assert low < found.mean < high
    assert high - low == pytest.approx(4 * found.std / 20, rel=0.4)
    assert describe([1.0, 2.0], seed=0).intervals == {}
    assert describe([], seed=0) is None
    assert describe(values, seed=0) == found


def test_neighbours_that_are_alike_widen_the_interval():
    alike = np.repeat(np.random.default_rng(0).standard_normal(50), 8).tolist()
    mixed = np.random.default_rng(1).permutation(alike).tolist()
    widths = [np.ptp(interval(resampled(one, seed=0)["mean"])) for one in (alike, mixed)]
    assert widths[0] > 1.7 * widths[1]


def test_weights_count_as_often_as_they_say():
    found = describe_weighted([3.0, 1.0], [1.0, 3.0])
    assert (found.mean, found.p50, found.p99, found.count) == (1.5, 1.0, 3.0, 4)


def test_a_result_survives_its_file(tmp_path):
    first = report(
        [*(record(number) for number in range(20)), record(20, failure="status", error="500: x", status=500)]
    )
    path = tmp_path / "a.json"
    path.write_text(first.to_json())
    again = read_report(path)
    assert asdict(again.stages[0].figures) == json.loads(json.dumps(asdict(first.stages[0].figures)))
    assert json.loads(again.to_json())["stages"][0]["requests"] == json.loads(first.to_json())["stages"][0]["requests"]
    keys = json.loads(path.read_text())
    assert keys["mean_ttft_ms"] == pytest.approx(200)
    assert keys["p99_tpot_ms"] == pytest.approx(50)
    assert keys["median_e2el_ms"] == pytest.approx(400)
    assert keys["mean_itl_ms"] == pytest.approx(50)
    assert keys["completed"] == 20
    assert keys["failed"] == 1
    assert keys["request_goodput"] == keys["request_throughput"]
    assert keys["output_throughput"] == pytest.approx(first.stages[0].figures.whole.output_tokens)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("{}", "is no result of flyweight bench load"),
        ('{"kind": "flyweight bench load", "format": 99}', "has format 99 and this version reads 1"),
        ('{"kind": "flyweight bench load", "format": 1}', "is damaged: KeyError"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_report(path)


def test_tables_and_page_say_what_must_be_known():
    limit = ClientFigures(
        loop_lag_mean=0.01,
        loop_lag_p99=0.05,
        loop_lag_max=0.1,
        cpu_share=0.9,
        late_sends_p99=0.1,
        num_cores=2,
        verdicts=("slow",),
    )
    one = report([record(number) for number in range(20)], client=limit, partial=True)
    remarks = " ".join(report_remarks(one))
    assert "interrupted" in remarks
    assert "the client was the limit: slow" in remarks
    throughput, latency = report_tables(one)
    assert throughput.rows[0][1] == "20"
    assert any("due" in row[1] for row in latency.rows)
    html = render_page(report_page(one))
    assert html.count("<svg") >= 6
    assert "the client was the limit in 1 of 1 stages" in html


def test_two_results_side_by_side():
    rng = np.random.default_rng(0)
    fast = report([record(number, ttft=0.1 * rng.uniform(0.9, 1.1)) for number in range(60)])
    slow = report([record(number, ttft=0.2 * rng.uniform(0.9, 1.1)) for number in range(60)])
    found = compare_loads({"fast": [fast], "slow": [slow]})
    ratio = next(one for one in found.ratios if one.figure == "TTFT p50")
    assert ratio.low < ratio.ratio < ratio.high
    assert ratio.ratio == pytest.approx(0.21 / 0.11, rel=0.03)
    table = comparison_table(found)
    assert next(row for row in table.rows if row[1] == "TTFT p50, ms")[-1] == "fast"
    assert next(row for row in table.rows if row[1] == "TPOT p50, ms")[-1] == "not told apart"
    assert "<svg" in render_page(comparison_page(found, {"fast": [fast], "slow": [slow]}))
    assert found.remarks == ()


def test_several_runs_are_compared_pair_by_pair():
    pace = (1.0, 2.0, 1.5, 1.0, 3.0, 1.2)  # the machine's, in each pair of runs
    first = [report([record(number, ttft=0.1 * factor) for number in range(20)]) for factor in pace]
    second = [report([record(number, ttft=0.15 * factor + 0.005) for number in range(20)]) for factor in pace]
    ratio = next(one for one in compare_loads({"a": first, "b": second}).ratios if one.figure == "TTFT p50")
    assert ratio.ratio == pytest.approx(1.5, abs=0.03)
    assert ratio.covers > 0.95
    assert ratio.high - ratio.low < 0.05


def test_differences_between_runs_are_named():
    one = report([record(number) for number in range(10)])
    other = report([record(number) for number in range(10)], options={**one.options, "input_tokens": "9"}, partial=True)
    remarks = " ".join(compare_loads({"a": [one], "b": [other]}).remarks)
    assert "input_tokens differs: a None; b 9" in remarks
    assert "a run of b was interrupted" in remarks
    with pytest.raises(UsageError, match="give as many of each"):
        compare_loads({"a": [one, one], "b": [other]})
    with pytest.raises(UsageError, match="give two or more"):
        compare_loads({"a": [one]})
