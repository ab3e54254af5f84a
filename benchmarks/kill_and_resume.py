"""Kill a compression three times at random moments, resume it, and compare every output file with an uninterrupted run.

    python benchmarks/kill_and_resume.py --work DIR -- compress MODEL OUT --recipe gptq-int4 --calibration FILE

The words behind ``--`` are a flyweight command line in which OUT stands for the output folder. The moments are drawn
from a seed, as units of work from where the run before was killed, and a share of the next unit's time: so a machine
that is slower in one hour than in another does not move them. SIGKILL leaves the process no chance to tidy up; a run
that finishes before its moment comes counts as a failure of the test, not as a success. Exit status 1 where a file
differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.1


def digests(folder: Path, ignored: list[str]) -> dict[str, str]:
    """SHA-256 of every file below ``folder`` by relative path, without the ignored names."""
    result = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in ignored:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while piece := file.read(8 << 20):
                    digest.update(piece)
            result[name] = digest.hexdigest()
    return result


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start in a process group of its own, so that a kill reaches any children too."""
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)


def run_to_end(command: list[str], log: Path) -> float:
    """Run, demand success, return the seconds."""
    started = time.perf_counter()
    status = start(command, log).wait()
    if status != 0:
        raise SystemExit(f"the command ended with {status}:\n{log.read_text()[-2000:]}")
    return time.perf_counter() - started


def kill_within(command: list[str], out: Path, units: float, unit_seconds: float, log: Path) -> float:
    """Run until the journal has ``units`` more, and for the fraction of ``units`` as part of the seconds of one (as
    this run shows them, else ``unit_seconds``); then SIGKILL the process group. Returns the seconds it ran."""
    started, begun, whole = time.perf_counter(), finished_units(out), int(units)
    due = float("inf")
    process = start(command, log)
    while time.perf_counter() < due:
        status = process.poll()
        if status is not None:
            raise SystemExit(f"the command ended with {status} before it could be killed; see {log}")
        if due == float("inf") and finished_units(out) >= begun + whole:
            now = time.perf_counter()
            due = now + (units - whole) * ((now - started) / whole if whole else unit_seconds)
        time.sleep(POLL_SECONDS)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return time.perf_counter() - started


def finished_units(out: Path) -> int:
    """Units in the journal of an unfinished output, whose first line names the job; 0 where there is none."""
    journal = out.with_name(out.name + ".partial") / "journal.jsonl"
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="new folder for both outputs and the logs")
    parser.add_argument("--python", default=sys.executable, help="interpreter with Flyweight")
    parser.add_argument("--uninterrupted", type=Path, help="the finished output of the same command, if there is one")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ignore",
        nargs="*",
        default=["report.json", "report.html"],
        help="files that hold times and so differ between any two runs",
    )
    parser.add_argument("command", nargs="+", help="flyweight's words, with OUT for the output folder")
    arguments = parser.parse_args()
    if "OUT" not in arguments.command:
        parser.error("the command needs the word OUT where the output folder goes")
    return arguments


def main() -> int:
    """Run, kill, resume, compare; returns the exit status."""
    arguments = parse_arguments()
    arguments.work.mkdir(parents=True)
    whole, killed = arguments.work / "uninterrupted", arguments.work / "killed"

    def command(out: Path) -> list[str]:
        words = [str(out) if word == "OUT" else word for word in arguments.command]
        return [arguments.python, "-m", "flyweight", *words]

    if arguments.uninterrupted is not None:
        whole = arguments.uninterrupted
    else:
        seconds = run_to_end(command(whole), arguments.work / "uninterrupted.log")
        print(f"uninterrupted: {seconds:.1f} s", flush=True)
    report = json.loads((whole / "report.json").read_text())
    units = len(list(whole.glob("*.safetensors"))) - 1  # the last shard is not one
    unit_seconds = report["seconds"] / units
    chooser = random.Random(arguments.seed)
    log = arguments.work / "killed.log"
    for number in range(arguments.kills):
        # The shares sum to less than one, so that even a job that lost nothing is still running at each kill.
        target = units * chooser.uniform(0.05, 0.9 / arguments.kills)
        seconds = kill_within(command(killed), killed, target, unit_seconds, log)
        print(
            f"kill {number + 1}: SIGKILL {target:.2f} units on, after {seconds:.1f} s; {finished_units(killed)} of "
            f"{units} units finished",
            flush=True,
        )
        if killed.exists():
            raise SystemExit(
                f"{killed} exists although the job was killed: an unfinished output must not look finished"
            )
    print(f"resumed to the end in {run_to_end(command(killed), log):.1f} s", flush=True)

    expected, actual = digests(whole, arguments.ignore), digests(killed, arguments.ignore)
    differing = sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))
    print(json.dumps({"files": len(expected), "ignored": arguments.ignore, "differing": differing}))
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
