"""Helpers of tests do not ``assert``: pytest does not rewrite them, and ``python -O`` drops what they would hold.
Files that begin first exist."""

import ast
from pathlib import Path

import pytest
from support.order import LONGEST_FIRST

TESTS = Path(__file__).parents[1]
HELPERS = sorted((TESTS / "support").rglob("*.py"))


@pytest.mark.parametrize("path", HELPERS, ids=lambda path: path.name)
def test_helpers_raise_instead_of_asserting(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not lines, f"{path.name}, lines {lines}: raise an error instead of asserting"


def test_the_longest_files_are_known() -> None:
    assert [name for name in LONGEST_FIRST if not (TESTS / name).is_file()] == []


def test_the_longest_files_begin_first(request: pytest.FixtureRequest) -> None:
    """Also where only some of them are run."""
    files = list(dict.fromkeys(item.path.relative_to(TESTS).as_posix() for item in request.session.items))
    known = [name for name in LONGEST_FIRST if name in files]
    assert files[: len(known)] == known
