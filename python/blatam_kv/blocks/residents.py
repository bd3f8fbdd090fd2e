"""The blocks in memory: their payloads by slot, and who may have them.

Which blocks stay and which leave, and that none stays without the one before it, is decided by the
native PrefixIndex. It knows names, parents and weights; the blocks themselves are here.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from blatam_kv._core import PrefixIndex
from blatam_kv.blocks.block import Block
from blatam_kv.blocks.events import BlockEvent, News
from blatam_kv.blocks.prompt import Prompt, common_tokens
from blatam_kv.cache import byte_count
from blatam_kv.errors import ConfigError

# How many followers of a block are compared where none is the one wanted. Where many prompts begin
# with the same few tokens, any of them will do.
_NEAREST_OF = 16


@dataclass(frozen=True, slots=True)
class ResidentStats:
    """What memory holds. held: blocks that cannot leave, pinned or continued; evicted: how many left
    for lack of room, ever."""

    policy: str
    entries: int
    bytes: int
    held: int
    evicted: int
    overhead_bytes: int


class Residents:
    """The memory side of a store. Safe from any thread.

    capacity_bytes: an int or a text such as "8GiB"; the bound holds whenever no call is under way.
    policy: as in ``Cache``. news: is told what comes and goes. clock: seconds that never go back,
    for pins that end.

    Its lock is held while the index changes or is read, never while blocks are made, read, written
    or released. Whoever has a Block keeps it.
    """

    def __init__(
        self,
        *,
        capacity_bytes: int | str,
        policy: str,
        news: News,
        clock: Callable[[], float],
    ) -> None:
        self.capacity_bytes = byte_count("capacity_bytes", capacity_bytes)
        self._policy = policy
        self._news = news
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows; reentered by none
        self._index = self._new_index()
        self._at: list[Block | None] = []
        self._pins: dict[bytes, float] = {}
        self._held: Counter[bytes] = Counter()
        self._let_go: deque[Block] = deque()  # needs no lock
        self._next_end = math.inf
        self._evicted = 0

    def walk(self, prompt: Prompt, last: int) -> list[Block]:
        """The blocks here that begin the prompt, at most ``last``; counts no use."""
        found: list[Block] = []
        for first, end in prompt.portions(0, last):
            names = prompt.digests(first, end)
            with self._lock:
                blocks = self._blocks(self._index.find(names))
            # Names are digests of the tokens; that they agree is checked all the same.
            tokens = [block.tokens for block in blocks]
            if b"".join(tokens) != prompt.block(first, first + len(blocks)):
                agree = (each == prompt.block(first + at) for at, each in enumerate(tokens))
                blocks = blocks[: list(agree).index(False)]
            found += blocks
            if len(blocks) < end - first:
                break
        return found

    def use(self, last: bytes, names: bytes) -> None:
        """A request for the prompt with this last block: count a use of each of its blocks with these
        names that is here, the last one first, so that the first is the most recent. names: one behind
        the other."""
        with self._lock:
            self._index.use(last, names)

    def nearest(self, parent: bytes, root: bool, tokens: bytes) -> tuple[Block | None, int]:
        """Of the newest blocks that continue ``parent`` the one that begins most like ``tokens``,
        and how many tokens they share; counts no use. root: ``parent`` is what prompts begin with.
        """
        with self._lock:
            newest = self._blocks(self._index.followers(parent, root, _NEAREST_OF))
        best, most = None, 0
        for block in newest:
            common = common_tokens(block.tokens, tokens)
            if common > most:
                best, most = block, common
        return best, most

    def add(self, last: bytes, names: bytes, blocks: Sequence[Block]) -> tuple[int, list[Block]]:
        """Insert successive blocks of the prompt with this last block, the first ones first, as far
        as there is room. names: theirs, one behind the other.

        Returns how many leading ones of them are here now, and what left for them, in that order;
        a policy may prefer what was here to what is new, which then was never stored. None is
        stored whose parent is not here.
        """
        if not blocks:
            return 0, []
        first = blocks[0]
        weights = array("Q", [block.weight for block in blocks])
        with self._lock:
            self._end_pins()
            old, held, gone = self._index.add(
                last, first.parent, not first.position, names, weights
            )
            slots = memoryview(held).cast("I").tolist()
            self._put(slots[old:], blocks[old : len(slots)])
            evicted = self._take(gone, "capacity")
            self._evicted += len(evicted)
        return len(slots), evicted

    def plan(self, prompt: Prompt, first: int, weight: int) -> tuple[int, list[Block]]:
        """Give the blocks of a prompt from ``first`` on their place, as far as there is room, before
        there is anything to lay down: what leaves for a prompt, itself maybe, does not depend then on
        the portions it comes in. weight: what a block will weigh.

        Returns how many have their place and what left for them. ``fill`` lays blocks down, and
        ``abandon`` must follow.
        """
        names = prompt.digests(first, prompt.blocks)
        weights = array("Q", [weight]) * (prompt.blocks - first)
        with self._lock:
            self._end_pins()
            _, slots, gone = self._index.add(
                prompt.last, prompt.parent(first), not first, names, weights, planned=True
            )
            evicted = self._take(gone, "capacity")
            self._evicted += len(evicted)
        return len(slots) // 4, evicted

    def fill(self, blocks: Sequence[Block]) -> tuple[int, list[Block]]:
        """Lay down successive planned blocks; returns how many leading ones are here, and what left
        because they weigh more than was planned."""
        here = 0
        evicted: list[Block] = []
        with self._lock:
            for block in blocks:
                slot, gone = self._index.fill(block.name, block.weight)
                if slot is not None:
                    self._put([slot], [block])
                evicted += self._take(gone, "capacity")
                if slot is None and not self._index.find(block.name):
                    break
                here += 1
            self._evicted += len(evicted)
        return here, evicted

    def abandon(self, names: bytes) -> None:
        """Give up what is still planned of these."""
        with self._lock:
            self._index.abandon(names)

    def pin(self, blocks: Sequence[Block], ttl: float | None) -> int:
        """Keep the longest of these prefixes that is still here, until unpinned or ``ttl`` seconds
        have passed; returns its blocks. Pinning again can only make it longer."""
        with self._lock:
            self._end_pins()
            end = math.inf if ttl is None else self._clock() + ttl
            for count in range(len(blocks), 0, -1):
                name = blocks[count - 1].name
                if name in self._pins or self._index.pin(name):
                    self._pins[name] = max(end, self._pins.get(name, end))
                    self._next_end = min(self._pins.values())
                    return count
        return 0

    def unpin(self, names: Sequence[bytes]) -> int:
        """Let go of the longest prefix of these that is pinned; returns its blocks, 0 if none is."""
        with self._lock:
            self._end_pins()
            for count in range(len(names), 0, -1):
                if self._pins.pop(names[count - 1], None) is not None:
                    self._index.unpin(names[count - 1])
                    return count
        return 0

    def pins(self, tags: bytes | None = None) -> list[tuple[list[Block], float]]:
        """What is pinned, or of it what has these tags: the blocks of each prefix, the first first,
        and the seconds it has left."""
        with self._lock:
            self._end_pins()
            now, found = self._clock(), []
            for name, end in self._pins.items():
                (block,) = chain = self._blocks(self._index.find(name))
                if tags is not None and block.tags != tags:
                    continue
                while chain[-1].position:
                    chain += self._blocks(self._index.find(chain[-1].parent))
                found.append((chain[::-1], end - now))
        return found

    def save(self, most: int) -> bytes:
        """How at most so many blocks were used, those used last, and what the policy learned."""
        with self._lock:
            return self._index.save(most)

    def restore(self, saved: bytes) -> str | None:
        """Learn that, before anything else happens here; what is wrong with it, or None."""
        with self._lock:
            return self._index.restore(saved)

    def hold(self, blocks: Sequence[Block]) -> list[Block]:
        """Keep the longest of these prefixes that is still here, beside all pins and other holds,
        until ``let_go`` is told its last block; returns its blocks."""
        with self._lock:
            self._end_pins()
            for count in range(len(blocks), 0, -1):
                last = blocks[count - 1]
                if self._is_here(last) and self._index.pin(last.name):
                    self._held[last.name] += 1
                    return list(blocks[:count])
        return []

    def let_go(self, last: Block) -> None:
        """End one hold; it has ended already if the block was thrown away. Waits for nobody: the
        garbage collector may call it, in the middle of anything."""
        self._let_go.append(last)
        if self._lock.acquire(blocking=False):  # else whoever has it, or comes next, does it
            try:
                self._end_holds()
            finally:
                self._lock.release()

    def discard(self, name: bytes) -> None:
        """Take a block out, and all that continue it."""
        with self._lock:
            gone = {name}
            blocks = sorted(self._all(), key=lambda block: block.position)
            for block in blocks:
                if block.parent in gone:
                    gone.add(block.name)
            self._remove([block for block in reversed(blocks) if block.name in gone], "deleted")

    def clear(self, tags: bytes | None = None) -> list[Block]:
        """Take out, pinned or not, everything or what has these tags; returns it, the ends of
        prompts first."""
        with self._lock:
            gone = sorted(self._all(), key=lambda block: -block.position)
            if tags is not None:
                gone = [block for block in gone if block.tags == tags]
            self._remove(gone, "cleared")
        return gone

    def resize(self, capacity_bytes: int) -> list[Block]:
        """Change the bound; returns what left for it, the first to leave first."""
        with self._lock:
            self._end_pins()
            self.capacity_bytes = capacity_bytes
            evicted = self._take(self._index.resize(capacity_bytes), "capacity")
            self._evicted += len(evicted)
        return evicted

    def all(self) -> list[Block]:
        """Every block, in no particular order."""
        with self._lock:
            return self._all()

    def pinned(self) -> int:
        """Prefixes that are pinned now."""
        with self._lock:
            self._end_pins()
            return len(self._pins)

    def holds(self) -> int:
        """Holds that have not ended."""
        with self._lock:
            self._end_holds()
            return self._held.total()

    def stats(self) -> ResidentStats:
        """Exact counters."""
        with self._lock:
            index = self._index
            return ResidentStats(
                policy=self._policy,
                entries=index.entries,
                bytes=index.used_bytes,
                held=index.pinned,
                evicted=self._evicted,
                overhead_bytes=index.memory_bytes,
            )

    # ---- inside, but for the first with the lock held -------------------------------------------

    def _new_index(self) -> PrefixIndex:
        try:
            return PrefixIndex(self.capacity_bytes, self._policy)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _is_here(self, block: Block) -> bool:
        """Whether it is this very block, not one that was saved anew."""
        return self._blocks(self._index.find(block.name)) == [block]

    def _all(self) -> list[Block]:
        return [block for block in self._at if block is not None]

    def _blocks(self, slots: bytes) -> list[Block]:
        at = self._at
        return [at[slot] for slot in memoryview(slots).cast("I").tolist()]  # type: ignore[misc]  # none of these is free

    def _put(self, slots: list[int], blocks: Sequence[Block]) -> None:
        """Lay down the blocks that are new."""
        at = self._at
        if slots and (highest := max(slots)) >= len(at):
            at += [None] * (highest + 1 - len(at))
        for slot, block in zip(slots, blocks, strict=True):
            at[slot] = block
        if self._news.wanted:
            for block in blocks:
                self._note("stored", block)

    def _take(self, slots: bytes, reason: str) -> list[Block]:
        """Pick up what left the index."""
        if not slots:
            return []
        gone = self._blocks(slots)
        at = self._at
        for slot in memoryview(slots).cast("I"):
            at[slot] = None
        if self._news.wanted:
            for block in gone:
                self._note("removed", block, reason)
        return gone

    def _remove(self, blocks: Sequence[Block], reason: str) -> None:
        """Take blocks out, of which none is continued by one that stays; the ends first."""
        for block in blocks:
            self._pins.pop(block.name, None)
            self._held.pop(block.name, None)
            slot = self._index.remove(block.name)
            if slot is not None:
                self._take(array("I", [slot]).tobytes(), reason)

    def _end_pins(self) -> None:
        """Let go of the pins whose time is over, and of holds."""
        self._end_holds()
        if not self._pins or self._next_end > (now := self._clock()):
            return
        for name in [name for name, end in self._pins.items() if end <= now]:
            del self._pins[name]
            self._index.unpin(name)
        self._next_end = min(self._pins.values(), default=math.inf)

    def _end_holds(self) -> None:
        while self._let_go:
            last = self._let_go.popleft()
            if self._held[last.name] and self._is_here(last):
                self._index.unpin(last.name)
                self._held[last.name] -= 1
                if not self._held[last.name]:
                    del self._held[last.name]

    def _note(self, kind: Literal["stored", "removed"], block: Block, reason: str = "") -> None:
        self._news.note(
            BlockEvent(kind, block.name, block.parent, block.position, block.tokens, reason)
        )
