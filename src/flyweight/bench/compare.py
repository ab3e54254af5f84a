"""This engine and its peers, measured in turn in one run on the same model shape and threads.

For each task every engine gets processes of its own; in each round each engine does the task once, in an order that
is turned round by round, while the others are stopped. What is compared is the ratio of the measurements of one round.
"""

import datetime as dt
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from flyweight import kernels
from flyweight.bench.compare_options import CompareOptions, open_peers
from flyweight.bench.compare_report import CompareReport, EngineFacts, TaskResult
from flyweight.bench.peers import Peer, Session, Setting
from flyweight.bench.peers.flyweight import Flyweight
from flyweight.bench.peers.processes import PeerError
from flyweight.bench.shapes import read_shape
from flyweight.bench.tasks import Prompts, Task, find_task
from flyweight.errors import UsageError
from flyweight.machine import Machine
from flyweight.progress import Progress, Silent
from flyweight.version import __version__

OURS = "flyweight"


def compare(
    model: str | Path,
    peers: Sequence[str] = (),
    options: CompareOptions | None = None,
    *,
    progress: Progress | None = None,
) -> CompareReport:
    """Measure a model of ours and peers with models of the same shape.

    Args:
        model: our checkpoint's folder.
        peers: ``NAME=PROGRAM:MODEL`` texts; see ``docs/bench.md``.

    A peer that fails at a task is reported with the reason and left out of that task.

    Raises:
        UsageError: a peer that cannot be read, a model that is none, or a task beyond its context.
        PeerError: our own side fails.
    """
    options = options if options is not None else CompareOptions()
    progress = progress if progress is not None else Silent()
    spec = read_shape(str(model))
    ours = Flyweight.of(Path(model), compute=options.compute, kv_dtype=options.kv_dtype, head=options.head)
    engines: dict[str, Peer] = {OURS: ours, **open_peers(peers, (OURS,))}
    tasks = [find_task(name) for name in options.tasks]
    for task in tasks:
        if task.longest > spec.max_positions:
            raise UsageError(
                f"task {task.name} has sequences of {task.longest} tokens and the context of {model} holds "
                f"{spec.max_positions}; leave it out, or take a model with a longer context"
            )
    threads = options.threads if options.threads is not None else kernels.thread_count()
    kv_values = sum(2 * block.attention.num_kv_heads * block.attention.head_dim for block in spec.blocks)
    facts: dict[str, EngineFacts] = {}
    results = []
    with tempfile.TemporaryDirectory(prefix="flyweight-compare-") as folder:
        setting = Setting(
            threads=threads, context=spec.max_positions, kv_bytes_per_token=2 * kv_values, folder=Path(folder)
        )
        progress.start("measurements", len(tasks) * len(engines) * options.rounds)
        for task in tasks:
            prompts = Prompts(spec.vocab_size)
            results.append(_run_task(task, engines, setting, options.rounds, prompts, facts, progress))
        progress.finish()
    return CompareReport(
        flyweight_version=__version__,
        machine=Machine.detect().describe(),
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        model=str(model),
        threads=threads,
        rounds=options.rounds,
        engines=tuple(facts[label] for label in engines if label in facts),
        results=tuple(results),
    )


def _run_task(
    task: Task,
    engines: Mapping[str, Peer],
    setting: Setting,
    rounds: int,
    prompts: Prompts,
    facts: dict[str, EngineFacts],
    progress: Progress,
) -> TaskResult:
    """All rounds of one task. ``facts`` gains what the engines say of themselves."""
    figures: dict[str, list[dict[str, float]]] = {}
    failures: dict[str, str] = {}
    peaks: dict[str, float] = {}
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for label, peer in engines.items():
            try:
                sessions[label] = peer.open(task, setting)
            except PeerError as error:
                if label == OURS:
                    raise
                failures[label] = str(error)
                progress.advance(rounds, note=f"{label} failed")
                continue
            stack.callback(_close, label, sessions[label], peaks)
            sessions[label].pause()
            figures[label] = []
        for number in range(rounds):
            for label in turned(list(sessions), number):
                if label in failures:
                    progress.advance()
                    continue
                sessions[label].resume()
                try:
                    figures[label].append(sessions[label].measure(prompts))
                except PeerError as error:
                    if label == OURS:
                        raise
                    failures[label] = str(error)
                    del figures[label]
                else:
                    sessions[label].pause()
                progress.advance(note=f"{task.name}: {label}")
        for label, session in sessions.items():
            _note_facts(facts, label, engines[label], task, session)
    for label, rounds_done in figures.items():
        rounds_done[0]["peak memory"] = peaks[label]  # of the process that did all rounds: one measurement
    return TaskResult(task=task.name, figures=figures, failures=failures)


def turned(labels: Sequence[str], number: int) -> list[str]:
    """The order of a round: each begins with the next engine, so that none always follows the same load."""
    start = number % len(labels) if labels else 0
    return [*labels[start:], *labels[:start]]


def _close(label: str, session: Session, peaks: dict[str, float]) -> None:
    peaks[label] = session.close()


def _note_facts(facts: dict[str, EngineFacts], label: str, peer: Peer, task: Task, session: Session) -> None:
    commands = facts[label].commands if label in facts else {}
    known = facts[label].facts if label in facts else {}
    told = dict(session.facts)
    command = told.pop("command", "")
    facts[label] = EngineFacts(
        label=label,
        model=str(peer.model),
        protocol=peer.protocol,
        facts={**known, **told},
        commands={**commands, task.name: command},
    )
