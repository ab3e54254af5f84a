"""The package imports only what pyproject.toml declares: an undeclared or an optional import breaks a fresh install."""

import ast
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORT_NAMES = {"array-api-compat": "array_api_compat", "pyyaml": "yaml"}
TORCH_ONLY = {"runtime/torch_ops.py"}
TRACES_ONLY = {"serving/tracing.py"}


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [line.split(">")[0].split("=")[0].split("[")[0] for line in project["dependencies"]]
    return {IMPORT_NAMES.get(name, name) for name in names}


def imported_roots(path: Path, *, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    roots = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            roots.add(node.module.split(".")[0])
    return roots


def test_only_declared_libraries_are_imported():
    allowed = declared() | set(sys.stdlib_module_names) | {"flyweight"}
    package = ROOT / "src" / "flyweight"
    faults = {}
    for path in package.rglob("*.py"):
        relative = path.relative_to(package).as_posix()
        extra = imported_roots(path, top_level_only=False) - allowed
        if relative in TORCH_ONLY:
            extra -= {"torch"}
        elif relative in TRACES_ONLY:
            extra -= {"opentelemetry"}
        elif "torch" in extra and "torch" not in imported_roots(path, top_level_only=True):
            extra -= {"torch"}  # inside a function, for arrays that are already torch's
        if extra:
            faults[relative] = sorted(extra)
    assert not faults, f"imports that pyproject.toml does not declare: {faults}"


def test_every_declared_library_is_imported():
    used = set().union(*(imported_roots(path, top_level_only=False) for path in (ROOT / "src").rglob("*.py")))
    assert declared() <= used, f"declared but not imported: {declared() - used}"
