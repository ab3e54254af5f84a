"""Work on one item while the next is being made. It knows nothing of the items."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items in the same order; each is made by a thread of its own while the one before is in use, so that
    two exist at once.

    What making one raises is raised in its place. Who stops early waits for the one that is being made.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="flyweight-ahead") as pool:
        coming = pool.submit(_take_one, source)
        while taken := coming.result():
            coming = pool.submit(_take_one, source)
            yield taken[0]


def _take_one(source: Iterator[Item]) -> tuple[Item, ...]:
    return tuple(islice(source, 1))
