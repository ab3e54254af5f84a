"""A few seconds of the soak test, whose ten minutes are run by hand (docs/results/soak.md)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "soak.py"


def test_a_short_soak(tmp_path):
    command = [sys.executable, SCRIPT, "--seconds", "2", "--json", tmp_path / "soak.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    if done.returncode:
        pytest.fail(done.stdout[-3000:] + done.stderr[-3000:])
    report = json.loads((tmp_path / "soak.json").read_text())
    if report["requests"] < 20 or report["faults"]:
        pytest.fail(str(report))
