"""The figures of one stage: latencies in both views, throughput, goodput, and how many requests ended in which way."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flyweight.bench.load.distributions import Distribution, describe, describe_weighted, latencies
from flyweight.bench.load.drive import StageRecording
from flyweight.bench.load.recording import RequestRecord
from flyweight.bench.load.slo import ServiceLevel

SHORTEST_STEADY = 0.5  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """Per second of a span of ``seconds``. Token rates are None where the server's tokens are not known."""

    seconds: float
    requests: float
    output_tokens: float | None
    total_tokens: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFigures:
    """Times in seconds.

    ``sent`` has ttft, tpot, e2e and itl from when requests were sent, ``scheduled`` ttft and e2e from when they were
    due. ``whole`` is from the start to the last answer; ``steady`` is while load was offered, without the time it took
    to fill up (None for short stages). ``goodput`` is requests per second that kept all service levels, measured from
    when they were due. ``output_interval`` is the interval of the steady output rate over its slices of time.
    """

    completed: int
    failed: int
    interrupted: int
    success_rate: float | None
    failures: Mapping[str, int]
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    short_answers: int
    tokens_from: Mapping[str, int]
    tokens_per_event: Mapping[str, int]
    wanted_input_mean: float | None
    input_mean: float | None
    sent: Mapping[str, Distribution]
    scheduled: Mapping[str, Distribution]
    whole: Throughput
    steady: Throughput | None
    output_interval: tuple[float, float] | None
    goodput: float | None
    good_share: float | None
    most_in_flight: int


def stage_figures(recording: StageRecording, levels: Sequence[ServiceLevel], *, seed: int) -> StageFigures:
    """The figures of a stage's records."""
    records = recording.records
    good = [one for one in records if one.succeeded]
    interrupted = [one for one in records if one.failure == "interrupted"]
    failed = [one for one in records if one.failure and one.failure != "interrupted"]
    failed += [one for one in records if not one.failure and not one.succeeded]
    settled = len(good) + len(failed)
    kept = [one for one in good if all(_keeps(one, level) for level in levels)] if levels else None
    steady_ends = steady_span(recording)
    seconds = max(recording.seconds, 1e-9)
    steady, slices = _steady(good, steady_ends) if steady_ends is not None else (None, None)
    inputs, outputs = _sum(one.input_tokens for one in good), _sum(one.output_tokens for one in good)
    return StageFigures(
        completed=len(good),
        failed=len(failed),
        interrupted=len(interrupted),
        success_rate=len(good) / settled if settled else None,
        failures=dict(Counter(_reason(one) for one in failed).most_common(20)),
        input_tokens=inputs,
        output_tokens=outputs,
        cached_tokens=_sum(one.cached_tokens for one in good),
        short_answers=sum(
            one.output_tokens is not None and one.wanted_output is not None and one.output_tokens < one.wanted_output
            for one in good
        ),
        tokens_from=dict(Counter(one.tokens_from for one in good)),
        tokens_per_event=dict(Counter(one.tokens_per_event for one in good)),
        wanted_input_mean=_mean([one.wanted_input for one in good if one.wanted_input is not None]),
        input_mean=_mean([one.input_tokens for one in good if one.input_tokens is not None]),
        sent=_distributions(good, scheduled=False, seed=seed),
        scheduled=_distributions(good, scheduled=True, seed=seed),
        whole=Throughput(
            seconds=seconds,
            requests=len(good) / seconds,
            output_tokens=None if outputs is None else outputs / seconds,
            total_tokens=None if outputs is None or inputs is None else (inputs + outputs) / seconds,
        ),
        steady=steady,
        output_interval=slices,
        goodput=None if kept is None else len(kept) / seconds,
        good_share=None if kept is None or not settled else len(kept) / settled,
        most_in_flight=max((count for _, count in in_flight(records)), default=0),
    )


def steady_span(recording: StageRecording) -> tuple[float, float] | None:
    """From when the load had filled up (one median answer after the start, at most half of the time) until it was no
    longer offered; None where that is under half a second."""
    times = latencies(recording.records, "e2e")
    if not times:
        return None
    begin = min(float(np.median(times)), recording.offered / 2)
    return (begin, recording.offered) if recording.offered - begin >= SHORTEST_STEADY else None


def in_flight(records: Sequence[RequestRecord]) -> list[tuple[float, int]]:
    """(moment, requests in flight from then on), in order."""
    changes = sorted(
        [(one.sent, 1) for one in records if one.sent is not None]
        + [(one.end, -1) for one in records if one.sent is not None and one.end is not None]
    )
    found, now = [], 0
    for moment, change in changes:
        now += change
        found.append((moment, now))
    return found


def token_rate(records: Sequence[RequestRecord], begin: float, end: float, slices: int) -> list[float] | None:
    """Output tokens per second in each of so many equal slices of time; None where an answer's are not known."""
    if any(one.tokens_per_event == "unknown" for one in records):
        return None
    times = np.concatenate([np.asarray(one.event_times, np.float64) for one in records] or [np.zeros(0)])
    tokens = np.concatenate([np.asarray(one.event_tokens, np.float64) for one in records] or [np.zeros(0)])
    sums, _ = np.histogram(times, bins=slices, range=(begin, end), weights=tokens)
    return [float(one) * slices / (end - begin) for one in sums]


def _steady(good: Sequence[RequestRecord], span: tuple[float, float]) -> tuple[Throughput, tuple[float, float] | None]:
    begin, end = span
    ended = [one for one in good if one.end is not None and begin <= one.end <= end]
    rates = token_rate(good, begin, end, 20)
    output = None if rates is None else float(np.mean(rates))
    inputs = _sum(one.input_tokens for one in ended)
    interval = None
    if rates is not None:
        # Slices are neighbours of one another: pairs of them are drawn as one.
        pairs = np.asarray(rates).reshape(-1, 2).mean(axis=1)
        error = 2.262 * float(pairs.std(ddof=1)) / np.sqrt(len(pairs))  # Student's t of 9 degrees at 95 %
        interval = (float(np.mean(rates) - error), float(np.mean(rates) + error))
    throughput = Throughput(
        seconds=end - begin,
        requests=len(ended) / (end - begin),
        output_tokens=output,
        total_tokens=None if output is None or inputs is None else output + inputs / (end - begin),
    )
    return throughput, interval


def _distributions(good: Sequence[RequestRecord], *, scheduled: bool, seed: int) -> dict[str, Distribution]:
    found = {}
    for measure in ("ttft", "e2e") if scheduled else ("ttft", "tpot", "e2e"):
        one = describe(latencies(good, measure, scheduled=scheduled), seed=seed)
        if one is not None:
            found[measure] = one
    if not scheduled:
        gaps = [gap for record in good for gap in record.gaps()]
        itl = describe_weighted([seconds / tokens for seconds, tokens in gaps], [tokens for _, tokens in gaps])
        if itl is not None:
            found["itl"] = itl
    return found


def _keeps(record: RequestRecord, level: ServiceLevel) -> bool:
    """From when it was due; an answer of one token has no TPOT and keeps its level."""
    if level.measure == "tpot":
        value = record.tpot if record.output_tokens is None or record.output_tokens > 1 else 0.0
    else:
        value = record.ttft(scheduled=True) if level.measure == "ttft" else record.e2e(scheduled=True)
    return value is not None and value * 1e3 <= level.milliseconds


def _reason(record: RequestRecord) -> str:
    return f"{record.failure or 'stream'}: {record.error or 'an answer without a token'}"[:160]


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum; None where one is not known or there are none."""
    found = list(values)
    known = [one for one in found if one is not None]
    return sum(known) if known and len(known) == len(found) else None


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None
