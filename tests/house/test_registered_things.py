"""Every method, format, architecture and checkpoint layout has its test file and its line in the docs."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "flyweight"


def formats() -> list[str]:
    return sorted(p.stem for p in (PACKAGE / "formats").glob("*.py") if p.stem not in ("__init__", "base"))


def methods() -> list[str]:
    from flyweight.compression.methods import METHODS

    return sorted(METHODS)


def architectures() -> list[str]:
    from flyweight.models import ARCHITECTURES

    return sorted(ARCHITECTURES)


def test_formats():
    page = (ROOT / "docs" / "formats.md").read_text()
    for name in formats():
        assert (ROOT / "tests" / "formats" / f"test_{name}.py").exists(), f"format {name} has no test"
        assert f"`{name}`" in page, f"docs/formats.md does not mention `{name}`"


def test_methods():
    page = (ROOT / "docs" / "compress.md").read_text()
    for name in methods():
        assert list((ROOT / "tests" / "compression").glob(f"test_{name}*.py")), f"method {name} has no test"
        assert f"`{name}`" in page, f"docs/compress.md does not mention `{name}`"


def test_architectures():
    page = (ROOT / "docs" / "architectures.md").read_text()
    cases = (ROOT / "tests" / "runtime" / "test_architectures.py").read_text()
    for name in architectures():
        assert f"`{name}`" in page, f"docs/architectures.md does not mention `{name}`"
        assert f'"{name}"' in cases, f"tests/runtime/test_architectures.py has no case for {name}"


@pytest.mark.parametrize("preset", sorted(p.stem for p in (PACKAGE / "compression" / "presets").glob("*.yaml")))
def test_presets_are_documented(preset):
    assert f"`{preset}`" in (ROOT / "docs" / "recipes.md").read_text()
