"""Help texts and commands in the documents are current: they are parsed by the program they describe."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from flyweight.cli import VERBS, app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[tuple[str, str]]:
    """(page, command line) of every ``flyweight ...`` line in a shell block of a page."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.removeprefix("$ ").split(" #")[0].split(" | ")[0].split(" > ")[0].strip()
                if line.startswith("flyweight "):
                    found.append((page.name, line))
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_parse(page, line):
    tokens = shlex.split(line)[1:]
    if tokens in (["--help"], ["--version"]) or tokens[-1] == "--help":
        return
    app.parse_args(tokens, exit_on_error=False, print_error=False)


def test_there_are_commands_to_check():
    assert len(commands()) > 10
    assert {line.split()[1] for _, line in commands()} >= set(VERBS)


def test_command_reference_is_current():
    """docs/cli.md is printed by scripts/print_cli_reference.py."""
    printed = subprocess.run(
        [sys.executable, ROOT / "scripts" / "print_cli_reference.py"], capture_output=True, text=True, check=True
    ).stdout
    assert (ROOT / "docs" / "cli.md").read_text() == printed, "run: python scripts/print_cli_reference.py > docs/cli.md"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_examples(verb):
    printed = subprocess.run(
        [sys.executable, "-m", "flyweight", verb, "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert f"flyweight {verb}" in printed.split("Usage:", 1)[1].split("\n", 1)[1], "the help text has no example"


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"
