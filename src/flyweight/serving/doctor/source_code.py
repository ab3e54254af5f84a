"""Checks of this package's own code: what must not be in it at all."""

import ast
from collections.abc import Iterator
from pathlib import Path

import flyweight
from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.subject import Subject

UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "zmq"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_METHODS = {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"), ("os", "system")}
FETCHING = {"httpx", "requests", "urllib3", "aiohttp", "urllib.request", "ftplib", "huggingface_hub"}


def unsafe_deserialization(subject: Subject, trials: Trials) -> None:
    """vLLM CVE-2024-9052, CVE-2024-9053, CVE-2024-11041, CVE-2025-24357 (+ bypass GHSA-ggpf-24jw-3fcw), CVE-2025-29783,
    CVE-2025-32444, CVE-2025-47277, CVE-2025-30165, CVE-2025-30202; ShadowMQ class CVE-2024-50050; SGLang CVE-2026-3059,
    -3060, -7301, -7304, -7669, CVE-2025-10164; LMDeploy CVE-2026-46517, CVE-2025-3162, -3163."""
    for path, tree in _modules(subject.package):
        unsafe = sorted({found for node in ast.walk(tree) if (found := _unsafe(node)) is not None})
        trials.expect(not unsafe, tried=path, found=", ".join(unsafe), wanted="no pickle, torch.load, eval or the like")


def asserts_as_validation(subject: Subject, trials: Trials) -> None:
    """CVE-2026-41523 (`python -O`)."""
    for path, tree in _modules(subject.package):
        lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert) and not _narrows(node.test)]
        trials.expect(
            not lines,
            tried=path,
            found=f"assert in line {', '.join(map(str, lines))}",
            wanted="asserts that only tell the type checker what is known (x is not None, isinstance)",
        )


def fetching(subject: Subject, trials: Trials) -> None:
    """SSRF: vLLM CVE-2025-6242, CVE-2026-24779 (backslash parser differential), CVE-2026-34753; LMDeploy
    CVE-2026-33626."""
    for path, tree in _modules(subject.package / "serving"):
        found = sorted({name for node in ast.walk(tree) for name in _imported(node) if _is_fetching(name)})
        trials.expect(
            not found,
            tried=path,
            found=f"imports {', '.join(found)}",
            wanted="no library that fetches from the network",
        )


def package_folder() -> Path:
    """Where this package's code lies."""
    return Path(flyweight.__file__).parent


def _modules(folder: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder).as_posix(), ast.parse(path.read_bytes())


def _unsafe(node: ast.AST) -> str | None:
    for name in _imported(node):
        if name.split(".")[0] in UNSAFE_MODULES:
            return name
    if not isinstance(node, ast.Call):
        return None
    called = node.func
    if isinstance(called, ast.Name) and called.id in UNSAFE_CALLS:
        return f"{called.id}()"
    if isinstance(called, ast.Attribute) and (_name(called.value), called.attr) in UNSAFE_METHODS:
        return f"{_name(called.value)}.{called.attr}()"
    for word in node.keywords:
        if word.arg in ("allow_pickle", "trust_remote_code", "shell") and not (
            isinstance(word.value, ast.Constant) and word.value.value is False
        ):
            return f"{word.arg}="
    return None


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module]
    return []


def _is_fetching(name: str) -> bool:
    return name in FETCHING or name.split(".")[0] in FETCHING


def _narrows(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp):
        return all(_narrows(value) for value in test.values)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return isinstance(test.operand, ast.Call) and _narrows(test.operand)
    if isinstance(test, ast.Call):
        return isinstance(test.func, ast.Name) and test.func.id == "isinstance"
    return (
        isinstance(test, ast.Compare)
        and len(test.ops) == 1
        and isinstance(test.ops[0], ast.IsNot)
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value is None
    )
