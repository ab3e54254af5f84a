"""The block pool against a model that remembers whole prefixes: requests grow, share, leave and are evicted."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flyweight.engine.block_pool import BlockPool, content_of
from flyweight.errors import IntegrityError, ResourceError

NUM_BLOCKS, BLOCK_SIZE = 10, 2


def contents(tokens: list[int]) -> list[bytes]:
    """Full blocks only."""
    starts = range(0, len(tokens) - BLOCK_SIZE + 1, BLOCK_SIZE)
    return [content_of(tokens[start : start + BLOCK_SIZE]) for start in starts]


class Holder:
    """One request's blocks: the first are entered and hold ``tokens``, the rest are being filled."""

    def __init__(self, pool: BlockPool, namespace: str, tokens: list[int]) -> None:
        self.pool, self.namespace, self.tokens = pool, namespace, tokens
        self.blocks = pool.find(namespace, contents(tokens))
        self.num_entered = len(self.blocks)
        pool.share(self.blocks)

    @property
    def is_cut_off(self) -> bool:
        return self.num_entered > 0 and not self.pool.is_findable(self.blocks[self.num_entered - 1])

    def grow(self) -> None:
        """Fill the next block of its tokens."""
        wanted = contents(self.tokens)
        if self.num_entered < len(wanted) and self.pool.num_free and not self.is_cut_off:
            self.blocks += self.pool.take(1)
            parent = self.pool.serial(self.blocks[self.num_entered - 1]) if self.num_entered else self.namespace
            self.blocks[-1] = self.pool.enter(self.blocks[-1], parent, wanted[self.num_entered])
            self.num_entered += 1


class Accounts(RuleBasedStateMachine):
    """``written`` says which prefix each block holds: what a hit returns must be exactly the prefix asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE)
        self.holders: list[Holder] = []
        self.written: dict[int, tuple[str, tuple[int, ...]]] = {}

    def prefix(self, holder: Holder, count: int) -> tuple[str, tuple[int, ...]]:
        return holder.namespace, tuple(holder.tokens[: count * BLOCK_SIZE])

    @rule(tokens=st.lists(st.integers(0, 1), max_size=14), namespace=st.sampled_from("ab"))
    def begin(self, tokens: list[int], namespace: str) -> None:
        holder = Holder(self.pool, namespace, tokens)
        for place, block in enumerate(holder.blocks):
            assert self.written[block] == self.prefix(holder, place + 1)
        self.holders.append(holder)

    @rule(which=st.integers(0, 9), times=st.integers(1, 5))
    def grow(self, which: int, times: int) -> None:
        if self.holders:
            holder = self.holders[which % len(self.holders)]
            for _ in range(times):
                holder.grow()
                for place, block in enumerate(holder.blocks[: holder.num_entered]):
                    self.written[block] = self.prefix(holder, place + 1)

    @rule(which=st.integers(0, 9), count=st.integers(0, 4))
    def take(self, which: int, count: int) -> None:
        """Blocks without a content, as partly filled ones are."""
        if not self.holders:
            return
        holder = self.holders[which % len(self.holders)]
        if count > self.pool.num_free:
            with pytest.raises(ResourceError, match=f"{count} cache blocks are needed and {self.pool.num_free} are"):
                self.pool.take(count)
        elif len(holder.blocks) == holder.num_entered:
            taken = self.pool.take(count)
            assert not {block for one in self.holders for block in one.blocks} & set(taken)
            self.pool.release(taken)
            for block in taken:
                self.written.pop(block, None)

    @rule(which=st.integers(0, 9))
    def end(self, which: int) -> None:
        if self.holders:
            holder = self.holders.pop(which % len(self.holders))
            self.pool.release(holder.blocks)

    @rule(which=st.integers(0, 9), place=st.integers(0, 6))
    def withdraw(self, which: int, place: int) -> None:
        """Of one of the holder's blocks: neither it nor what follows it is found again."""
        findable = [(prefix, block) for block, prefix in self.written.items() if self.pool.is_findable(block)]
        held = [one for one in self.holders if one.num_entered > place and not one.is_cut_off]
        if held:
            namespace, tokens = self.prefix(held[which % len(held)], place + 1)
            self.pool.withdraw([self.pool.serial(held[which % len(held)].blocks[place])])
            for (of, prefix), block in findable:
                follows = of == namespace and prefix[: len(tokens)] == tokens
                assert self.pool.is_findable(block) == (not follows)

    @rule()
    def forget(self) -> None:
        self.pool.forget()
        held = {block for holder in self.holders for block in holder.blocks}
        assert self.pool.num_findable == sum(map(self.pool.is_findable, held))

    @invariant()
    def accounts_agree(self) -> None:
        self.pool.check_integrity([holder.blocks for holder in self.holders])
        held = {block for holder in self.holders for block in holder.blocks}
        assert self.pool.num_free == NUM_BLOCKS - len(held)


Accounts.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAccounts = Accounts.TestCase


def test_thousands_of_requests_leave_nothing_behind() -> None:
    chance = random.Random(1)
    pool = BlockPool(num_blocks=40, block_size=BLOCK_SIZE)
    holders: list[Holder] = []
    for _ in range(5000):
        if holders and chance.random() < 0.5:
            pool.release(holders.pop(chance.randrange(len(holders))).blocks)
        else:
            holders.append(Holder(pool, "", [chance.randrange(2) for _ in range(chance.randrange(20))]))
            for _ in range(10):
                holders[-1].grow()
    pool.check_integrity([holder.blocks for holder in holders])
    for holder in holders:
        pool.release(holder.blocks)
    pool.check_integrity([])
    assert pool.num_free == 40
    assert pool.statistics.evictions > 100


def filled(pool: BlockPool, tokens: list[int], namespace: str = "") -> Holder:
    holder = Holder(pool, namespace, tokens)
    for _ in range(len(tokens)):
        holder.grow()
    return holder


def test_tails_are_evicted_before_heads_and_the_oldest_first() -> None:
    pool = BlockPool(num_blocks=6, block_size=BLOCK_SIZE)
    first, second = filled(pool, [1, 1, 2, 2, 3, 3]), filled(pool, [5, 5, 6, 6, 7, 7])
    pool.release(first.blocks)
    pool.release(second.blocks)
    assert pool.take(4) == [*reversed(first.blocks), second.blocks[2]]
    assert pool.find("", contents([5, 5, 6, 6, 7, 7])) == second.blocks[:2]
    assert pool.find("", contents([1, 1])) == []
    assert pool.statistics.evictions == 4


def test_a_used_prefix_becomes_the_newest() -> None:
    pool = BlockPool(num_blocks=4, block_size=BLOCK_SIZE)
    first, second = filled(pool, [1, 1, 2, 2]), filled(pool, [5, 5, 6, 6])
    pool.release(first.blocks)
    pool.release(second.blocks)
    again = Holder(pool, "", [1, 1, 2, 2, 9])
    assert again.blocks == first.blocks
    pool.release(again.blocks)
    assert pool.take(2) == list(reversed(second.blocks))


def test_what_is_entered_twice_is_held_once() -> None:
    pool = BlockPool(num_blocks=4, block_size=BLOCK_SIZE)
    one, other = Holder(pool, "", [1, 1, 2, 2]), Holder(pool, "", [1, 1, 2, 2])
    for _ in range(2):
        one.grow()
        other.grow()
    assert one.blocks == other.blocks
    assert pool.num_free == 2


def test_namespaces_and_parents_keep_equal_tokens_apart() -> None:
    pool = BlockPool(num_blocks=8, block_size=BLOCK_SIZE)
    filled(pool, [1, 1, 2, 2])
    assert pool.find("other", contents([1, 1])) == []
    assert pool.find("", contents([2, 2])) == []
    assert pool.find("", contents([3, 3, 2, 2])) == []
    # A new content never gets an old one's name, so what follows an evicted content is not found behind another.
    holder = filled(pool, [4, 4, 2, 2])
    serial = pool.serial(holder.blocks[0])
    pool.release(holder.blocks)
    pool.forget()
    assert pool.serial(filled(pool, [4, 4]).blocks[0]) != serial


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda pool, one: pool._references.__setitem__(one.blocks[0], 7), "counts 7 holders and has 1"),
        (lambda pool, one: pool._empty.append(one.blocks[0]), "has 1 holders and is 1 times free"),
        (lambda pool, one: pool._where.clear(), "has a content that is not found at it"),
        (lambda pool, one: pool._empty.pop(), "has 0 holders and is 0 times free"),
        (lambda pool, one: pool._contents.__setitem__(one.blocks[0], None), "follows a content that was evicted"),
        (lambda pool, one: pool._where.__setitem__(("", b""), 3), "3 contents can be found and 2 are held"),
    ],
)
def test_damage_is_named(damage: object, message: str) -> None:
    pool = BlockPool(num_blocks=5, block_size=BLOCK_SIZE)
    one = filled(pool, [1, 1, 2, 2])
    pool.check_integrity([one.blocks])
    damage(pool, one)  # type: ignore[operator]
    with pytest.raises(IntegrityError, match=message):
        pool.check_integrity([one.blocks])


def test_a_wrong_order_of_eviction_is_named() -> None:
    pool = BlockPool(num_blocks=5, block_size=BLOCK_SIZE)
    one = filled(pool, [1, 1, 2, 2])
    pool.release(reversed(one.blocks))
    with pytest.raises(IntegrityError, match="would be evicted after"):
        pool.check_integrity([])


def test_misuse_is_refused() -> None:
    pool = BlockPool(num_blocks=2, block_size=BLOCK_SIZE)
    [block] = pool.take(1)
    pool.release([block])
    with pytest.raises(IntegrityError, match=f"block {block} is released but nobody holds it"):
        pool.release([block])
    with pytest.raises(IntegrityError, match="is shared but holds no content"):
        pool.share([block])
    with pytest.raises(IntegrityError, match="has none"):
        pool.serial(block)
