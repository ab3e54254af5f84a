"""A table of named things (methods, formats, architectures) that refuses doubles and explains unknown names.

It does not import what it lists: the modules that define the things register them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from flyweight.errors import UsageError, nearest

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Names to values of one kind; ``kind`` is the noun used in messages."""

    def __init__(self, kind: str, error: type[UsageError] = UsageError) -> None:
        self._kind = kind
        self._error = error
        self._items: dict[str, T] = {}

    def add(self, *names: str) -> Callable[[T], T]:
        """Decorator that files a value under one or more names.

        Raises:
            ValueError: when a name is taken (a mistake of ours, not of the user).
        """

        def register(value: T) -> T:
            for name in names:
                if name in self._items:
                    raise ValueError(f"{self._kind} {name!r} is registered twice")
                self._items[name] = value
            return value

        return register

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            known = ", ".join(sorted(self._items))
            raise self._error(f"unknown {self._kind} {name!r}; known: {known}{nearest(name, self._items)}")
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
