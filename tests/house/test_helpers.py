"""Helpers of tests do not ``assert``: pytest does not rewrite them, and ``python -O`` drops what they would hold."""

import ast
from pathlib import Path

import pytest

HELPERS = sorted((Path(__file__).parents[1] / "support").rglob("*.py"))


@pytest.mark.parametrize("path", HELPERS, ids=lambda path: path.name)
def test_helpers_raise_instead_of_asserting(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not lines, f"{path.name}, lines {lines}: raise an error instead of asserting"
