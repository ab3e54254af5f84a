"""Help texts and commands in the documents are current: they are parsed by the program they describe."""

import re
import runpy
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


def test_command_reference_is_current(capsys):
    """docs/cli.md is printed by scripts/print_cli_reference.py."""
    runpy.run_path(str(ROOT / "scripts" / "print_cli_reference.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert (ROOT / "docs" / "cli.md").read_text() == printed, "run: python scripts/print_cli_reference.py > docs/cli.md"


# A process for each verb, so that none leans on what another has imported; the libraries of many are imported once.
EVERY_HELP = """
import os, sys
import httpx, numpy, pydantic, starlette.applications, uvicorn
from flyweight.cli import VERBS, app
for verb in VERBS:
    print("<<" + verb + ">>", flush=True)
    if os.fork() == 0:
        app([verb, "--help"])
        sys.stdout.flush()
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"flyweight {verb} --help failed")
"""


@pytest.fixture(scope="module")
def help_texts():
    done = subprocess.run([sys.executable, "-c", EVERY_HELP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names_and_texts = re.split(r"^<<(.+)>>$", done.stdout, flags=re.MULTILINE)[1:]
    return dict(zip(names_and_texts[::2], names_and_texts[1::2], strict=True))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_examples(help_texts, verb):
    printed = help_texts[verb]
    assert f"flyweight {verb}" in printed.split("Usage:", 1)[1].split("\n", 1)[1], "the help text has no example"


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"
