"""The result of a run, to and from JSON: what was asked, of whom, on which machine, and each stage's figures."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flyweight.bench.load.distributions import Distribution
from flyweight.bench.load.drive import StageRecording
from flyweight.bench.load.figures import StageFigures, Throughput, stage_figures
from flyweight.bench.load.recording import RequestRecord
from flyweight.bench.load.slo import parse_levels
from flyweight.bench.load.stages import Stage
from flyweight.bench.load.vllm_keys import vllm_keys
from flyweight.bench.load.watch import ClientFigures
from flyweight.errors import DataError

KIND = "flyweight bench load"
FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """One stage: its plan, its records and their figures."""

    stage: Stage
    recording: StageRecording
    figures: StageFigures


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """Everything that a run found. ``partial`` says that it was interrupted; ``warm_up`` how many requests came first
    and are in no figure. ``client`` are facts of the measuring side, ``server`` what the server says of itself."""

    url: str
    model: str
    date: str
    flyweight_version: str
    machine: str
    client: Mapping[str, str]
    server: Mapping[str, str]
    options: Mapping[str, Any]
    warm_up: int
    partial: bool
    stages: tuple[StageResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(self.options.get("slo", ()))

    def to_json(self) -> str:
        """All of it; the events of each answer only where they were asked for. The keys of ``vllm bench serve`` stand
        in each stage, and where there is one stage beside ours at the top."""
        events = bool(self.options.get("events"))
        whole: dict[str, Any] = {
            "kind": KIND,
            "format": FORMAT,
            "url": self.url,
            "model_id": self.model,
            "date": self.date,
            "flyweight_version": self.flyweight_version,
            "machine": self.machine,
            "client": dict(self.client),
            "server": dict(self.server),
            "options": dict(self.options),
            "warm_up": self.warm_up,
            "partial": self.partial,
            "notes": list(self.notes),
            "stages": [_stage_json(one, events=events) for one in self.stages],
        }
        if len(self.stages) == 1:
            whole = {**whole["stages"][0]["vllm"], **whole}
        return json.dumps(whole, indent=1)


def make_stage_result(stage: Stage, recording: StageRecording, levels: tuple[str, ...], *, seed: int) -> StageResult:
    """A stage's result from its recording."""
    return StageResult(
        stage=stage, recording=recording, figures=stage_figures(recording, parse_levels(levels), seed=seed)
    )


def read_report(path: Path) -> LoadReport:
    """A report that :meth:`LoadReport.to_json` wrote, with the figures that stand in it.

    Raises:
        DataError: the file is none of ours, or of a newer format.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise DataError(f"{path} is no result of {KIND}; give a file that its --json or --output wrote")
    if found.get("format") != FORMAT:
        raise DataError(f"{path} has format {found.get('format')!r} and this version reads {FORMAT}; update flyweight")
    try:
        return LoadReport(
            model=found["model_id"],
            stages=tuple(_read_stage(one) for one in found["stages"]),
            notes=tuple(found["notes"]),
            **{
                name: found[name]
                for name in (
                    *("url", "date", "flyweight_version", "machine", "client", "server", "options"),
                    *("warm_up", "partial"),
                )
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _stage_json(one: StageResult, *, events: bool) -> dict[str, Any]:
    stage = {name: value for name, value in asdict(one.stage).items() if name not in ("times", "trace")}
    return {
        "stage": stage,
        "figures": asdict(one.figures),
        "vllm": vllm_keys(one.stage, one.figures, one.recording.records),
        "client": asdict(one.recording.client),
        "offered_seconds": round(one.recording.offered, 6),
        "seconds": round(one.recording.seconds, 6),
        "interrupted": one.recording.interrupted,
        "requests": [record.to_row(events=events) for record in one.recording.records],
    }


def _read_stage(found: dict[str, Any]) -> StageResult:
    client = {**found["client"], "verdicts": tuple(found["client"]["verdicts"])}
    records = [RequestRecord.from_row(row) for row in found["requests"]]
    recording = StageRecording(
        records=records,
        offered=found["offered_seconds"],
        seconds=found["seconds"],
        interrupted=found["interrupted"],
        client=ClientFigures(**client),
    )
    return StageResult(stage=Stage(**found["stage"]), recording=recording, figures=_read_figures(found["figures"]))


def _read_figures(found: dict[str, Any]) -> StageFigures:
    views = {view: {name: Distribution(**one) for name, one in found[view].items()} for view in ("sent", "scheduled")}
    spans = {name: None if found[name] is None else Throughput(**found[name]) for name in ("whole", "steady")}
    return StageFigures(**{**found, **views, **spans})
