"""The generated tables of docs/security.md are current."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_tables_are_current():
    command = [sys.executable, ROOT / "scripts" / "print_security_tables.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if (ROOT / "docs" / "security.md").read_text() != printed:
        pytest.fail("run: python scripts/print_security_tables.py > build/security.md && mv build/security.md docs/")
