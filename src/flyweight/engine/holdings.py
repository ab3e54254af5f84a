"""How a request's blocks follow its tokens: found in the prefix cache, taken, entered when full, trimmed, given back.

It changes the pool and the request together, so that their accounts agree. Damage is its business too: logits that are
not finite say that keys and values of the request are damaged, and nobody shall find them.
"""

from collections.abc import Sequence

from flyweight.engine.block_pool import BlockPool, Parent
from flyweight.engine.request import LiveRequest
from flyweight.engine.scheduler import RequestState


class Holdings:
    """The blocks of all requests over one pool."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._block_size = pool.block_size

    def state(self, live: LiveRequest) -> RequestState:
        """A request for the scheduler, with what the prefix cache holds of its missing tokens."""
        found: list[int] = []
        next_content = None
        if live.namespace is not None and not live.is_decoding and not self._is_cut_off(live):
            first = live.num_entered
            # The last known token is always computed: its logits are wanted.
            last = (len(live.known) - 1) // self._block_size
            parent = self._parent(live)
            if not live.wants_scores:  # found blocks would leave out logits
                found = self._pool.find(parent, (live.content(place, self._block_size) for place in range(first, last)))
            following = first + len(found)
            if (following + 1) * self._block_size <= len(live.known):
                parent = self._pool.serial(found[-1]) if found else parent
                next_content = (parent, live.content(following, self._block_size))
        return live.state(
            blocks=tuple(live.blocks),
            found=tuple(found),
            found_free=sum(map(self._pool.is_free, found)),
            next_content=next_content,
        )

    def hold_found(self, live: LiveRequest, found: Sequence[int]) -> None:
        """Hold findable blocks in place of a request's blocks behind those it has entered."""
        if not found:
            return
        self._pool.share(found)
        self._pool.release(live.blocks[live.num_entered :])
        live.blocks[live.num_entered :] = found
        live.num_entered = len(live.blocks)
        before, live.computed = live.computed, live.num_entered * self._block_size
        if not live.preemptions:
            live.cached_tokens += live.computed - before
            self._pool.count(queries=0, hits=live.computed - before)

    def grow(self, live: LiveRequest, num_tokens: int) -> None:
        """Take the blocks that so many tokens need."""
        missing = -(-num_tokens // self._block_size) - len(live.blocks)
        if missing > 0:
            live.blocks.extend(self._pool.take(missing))

    def enter(self, live: LiveRequest) -> None:
        """Make the blocks that have become full findable; what another has entered before is held instead."""
        if live.namespace is None or self._is_cut_off(live):
            return
        while (live.num_entered + 1) * self._block_size <= live.computed:
            place = live.num_entered
            content = live.content(place, self._block_size)
            own, live.blocks[place] = (
                live.blocks[place],
                self._pool.enter(live.blocks[place], self._parent(live), content),
            )
            if live.blocks[place] == own:
                live.written.append(self._pool.serial(own))
            live.num_entered += 1

    def trim(self, live: LiveRequest) -> None:
        """Give back blocks behind the last computed token, which held wrong guesses."""
        needed = -(-live.computed // self._block_size)
        self._pool.release(live.blocks[needed:])
        del live.blocks[needed:]

    def release(self, live: LiveRequest) -> None:
        """Give back all blocks; nothing of the request is computed then."""
        self._pool.release(live.blocks)
        live.blocks.clear()
        live.computed = live.num_entered = 0

    def distrust(self, live: LiveRequest) -> bool:
        """Let nobody find what a request has computed, since its logits are not finite. Whether it may begin again:
        not if all is its own, or a part of its answer has been told. Then it computes everything itself, so that it
        turns out whether what it had found was damaged."""
        written = set(live.written)
        held = map(self._pool.serial, filter(self._pool.is_findable, live.blocks[: live.num_entered]))
        found = tuple(serial for serial in held if serial not in written)
        begins_again = len(live.known) == live.num_prompt and (bool(found) or self._is_cut_off(live))
        self._pool.withdraw(written)
        live.written.clear()
        if begins_again:
            live.namespace, live.suspected, live.cached_tokens = None, found, 0
        return begins_again

    def convict(self, live: LiveRequest) -> None:
        """Let nobody find what a request had found before it began again: without it, its logits are finite."""
        self._pool.withdraw(live.suspected)
        live.suspected = ()

    def _is_cut_off(self, live: LiveRequest) -> bool:
        """Whether what its next full block follows has been withdrawn."""
        return live.num_entered > 0 and not self._pool.is_findable(live.blocks[live.num_entered - 1])

    def _parent(self, live: LiveRequest) -> Parent:
        """What a request's next full block follows."""
        assert live.namespace is not None
        return self._pool.serial(live.blocks[live.num_entered - 1]) if live.num_entered else live.namespace
