"""Who holds which block of the key-value cache, and which blocks hold tokens that another request may begin with.

A block is held by any number of requests (its references). One that nobody holds is free; if its content is known it
stays findable until the block is needed for something else, the one unused for longest first.

Contents form a tree. A content is named by its parent (the content before it, or a namespace for the first) and its
own tokens; every content entered gets a serial number that is never used again, and the number is the parent's name
for those that follow. So one dictionary entry stands for a whole prefix: the dictionary hashes parent and tokens and
compares them on a hit, and by induction a hit has the same tokens from the very first on. No collision can hand one
request the keys and values of another. A namespace (a salt) keeps prefixes of different owners apart.

A holder of a content holds its parents too, and gives its blocks back tail first; so a child is always evicted before
its parent, and no content is ever unreachable. All operations are O(1) per block. It knows block numbers and tokens,
neither arrays nor requests.
"""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flyweight.errors import IntegrityError, ResourceError

Parent = int | str
"""The serial number of the content before, or the namespace of a first content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStatistics:
    """Counts since the pool was made. ``queries`` and ``hits`` are tokens looked up and found by requests as they
    began, ``evictions`` are findable contents given up for new ones."""

    queries: int
    hits: int
    evictions: int


@dataclass(frozen=True, slots=True)
class _Content:
    parent: Parent
    tokens: bytes
    serial: int


def content_of(token_ids: Sequence[int]) -> bytes:
    """The tokens of one block as the pool compares them."""
    return array("i", token_ids).tobytes()


class BlockPool:
    """The blocks 0 to ``num_blocks`` - 1 of a cache, each of ``block_size`` tokens."""

    def __init__(self, *, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._references = [0] * num_blocks
        self._contents: list[_Content | None] = [None] * num_blocks
        self._where: dict[tuple[Parent, bytes], int] = {}
        self._empty = list(range(num_blocks - 1, -1, -1))  # free and without a content
        self._idle: OrderedDict[int, None] = OrderedDict()  # free and findable, unused for longest first
        self._next_serial = 0
        self._queries = self._hits = self._evictions = 0

    @property
    def num_free(self) -> int:
        """Blocks that can be taken, findable ones included."""
        return len(self._empty) + len(self._idle)

    @property
    def num_findable(self) -> int:
        """Blocks whose content can be found, held or free."""
        return len(self._where)

    @property
    def statistics(self) -> PoolStatistics:
        return PoolStatistics(queries=self._queries, hits=self._hits, evictions=self._evictions)

    def count(self, *, queries: int, hits: int) -> None:
        """Add tokens looked up, and tokens found, to the statistics."""
        self._queries += queries
        self._hits += hits

    def is_free(self, block: int) -> bool:
        return self._references[block] == 0

    def is_findable(self, block: int) -> bool:
        return self._contents[block] is not None

    def take(self, count: int) -> list[int]:
        """So many free blocks, held once from now on; their contents are forgotten.

        Raises:
            ResourceError: when fewer are free; nothing is taken then.
        """
        if count > self.num_free:
            raise ResourceError(f"{count} cache blocks are needed and {self.num_free} are free")
        taken = [self._empty.pop() if self._empty else self._evict() for _ in range(count)]
        for block in taken:
            self._references[block] = 1
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Hold findable or held blocks once more."""
        for block in blocks:
            if self._references[block] == 0:
                if block not in self._idle:
                    raise IntegrityError(f"block {block} is shared but holds no content")
                del self._idle[block]
            self._references[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Give up one hold of each of a sequence's blocks, given in its order; the last goes first, so that it is
        evicted before what it follows."""
        for block in reversed(list(blocks)):
            if self._references[block] < 1:
                raise IntegrityError(f"block {block} is released but nobody holds it")
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._contents[block] is None:
                    self._empty.append(block)
                else:
                    self._idle[block] = None

    def find(self, parent: Parent, contents: Iterable[bytes]) -> list[int]:
        """The blocks that hold these contents one after another behind ``parent``, as far as there are any."""
        found: list[int] = []
        for tokens in contents:
            block = self._where.get((parent, tokens))
            if block is None:
                break
            found.append(block)
            parent = self.serial(block)
        return found

    def serial(self, block: int) -> int:
        """What a findable block's content is called as a parent."""
        content = self._contents[block]
        if content is None:
            raise IntegrityError(f"block {block} is asked for its content's name and has none")
        return content.serial

    def enter(self, block: int, parent: Parent, tokens: bytes) -> int:
        """Make the content of a held, full block findable; returns the block that holds it from now on.

        That is another one where the same content was entered before: the hold moves there, and ``block`` becomes
        free. The caller holds the parent's block.
        """
        before = self._where.get((parent, tokens))
        if before is not None:
            self.share([before])
            self.release([block])
            return before
        self._contents[block] = _Content(parent, tokens, self._next_serial)
        self._where[parent, tokens] = block
        self._next_serial += 1
        return block

    def forget(self) -> None:
        """Forget the contents that nobody holds."""
        while self._idle:
            self._empty.append(self._evict())

    def withdraw(self, serials: Iterable[int]) -> None:
        """Let contents, given by their serial numbers, and all that follow them be found no more; those that are gone
        already do not matter. Who holds their blocks goes on holding them. It looks at every block of the pool."""
        gone = set(serials)
        if not gone:
            return
        named = sorted((content.serial, block) for block, content in enumerate(self._contents) if content is not None)
        for serial, block in named:  # what follows a content has a greater number
            content = self._contents[block]
            if content is not None and (serial in gone or content.parent in gone):
                gone.add(serial)
                self._drop_content(block)
                if self._references[block] == 0:
                    del self._idle[block]
                    self._empty.append(block)

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        self._drop_content(block)
        self._evictions += 1
        return block

    def _drop_content(self, block: int) -> None:
        content = self._contents[block]
        assert content is not None
        del self._where[content.parent, content.tokens]
        self._contents[block] = None

    def check_integrity(self, holders: Iterable[Sequence[int]] | None = None) -> None:
        """Look for contradictions in the accounts; ``holders`` are the block lists of all who hold any.

        Raises:
            IntegrityError: naming the first that is found.
        """
        if holders is not None:
            held = Counter(block for blocks in holders for block in blocks)
            for block, references in enumerate(self._references):
                if references != held[block]:
                    raise IntegrityError(f"block {block} counts {references} holders and has {held[block]}")
        self._check_lists()
        self._check_tree()

    def _check_lists(self) -> None:
        listed = Counter([*self._empty, *self._idle])
        for block, references in enumerate(self._references):
            if references < 0:
                raise IntegrityError(f"block {block} counts {references} holders")
            if listed[block] != (references == 0):
                raise IntegrityError(f"block {block} has {references} holders and is {listed[block]} times free")
            if references == 0 and (self._contents[block] is None) == (block in self._idle):
                raise IntegrityError(f"free block {block} lies in the wrong list for its content")

    def _check_tree(self) -> None:
        places = {content.serial: block for block, content in enumerate(self._contents) if content is not None}
        age = {block: place for place, block in enumerate(self._idle)}
        of_children: Counter[int] = Counter()
        for block, content in enumerate(self._contents):
            if content is None:
                continue
            if self._where.get((content.parent, content.tokens)) != block:
                raise IntegrityError(f"block {block} has a content that is not found at it")
            if isinstance(content.parent, str):
                continue
            if content.parent not in places:
                raise IntegrityError(f"block {block} follows a content that was evicted")
            parent = places[content.parent]
            of_children[parent] += self._references[block]
            if parent in age and age.get(block, len(age)) > age[parent]:
                raise IntegrityError(f"block {block} would be evicted after block {parent}, which it follows")
        for block, references in of_children.items():
            if references > self._references[block]:
                raise IntegrityError(
                    f"block {block} has {self._references[block]} holders and what follows it has {references}"
                )
        if len(self._where) != len(places):
            raise IntegrityError(f"{len(self._where)} contents can be found and {len(places)} are held by blocks")
