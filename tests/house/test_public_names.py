"""``flyweight.__all__`` is exactly what the package offers, and every public thing explains itself."""

import inspect
import types

import flyweight


def test_all_is_exactly_what_is_public():
    public = {
        name
        for name in dir(flyweight)
        if not name.startswith("_") and not isinstance(getattr(flyweight, name), types.ModuleType)
    }
    assert public == set(flyweight.__all__) - {"__version__"}
    assert flyweight.__all__ == sorted(flyweight.__all__)


def test_every_public_name_has_a_docstring():
    for name in set(flyweight.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(flyweight, name)), f"flyweight.{name} has no docstring"
