"""The blocks in memory: which stay, which leave, and that none stays without the one before it.

A block is of use only if all blocks before it in its prompt can be had. So each block pins its
parent for as long as it is here, and victims are always the ends of chains. Insertions go from the
front of a prompt to its end, uses from its end to the front: what is oldest at the end of a chain is
what leaves first.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from itertools import islice

from blatam_kv.blocks.events import BlockEvent, News
from blatam_kv.blocks.prompt import Prompt, common_tokens
from blatam_kv.cache import Cache, CacheStats
from blatam_kv.errors import EntryTooLarge, NoRoom
from blatam_kv.record import Bytes, Kind, Record

# What a block weighs beside its payload and twice its tokens (a payload read from disk holds on to
# the record around it): objects, names, the slot, the pin. Measured by tests/test_blocks_memory.py.
BLOCK_OVERHEAD_BYTES = 1024
# How many followers of a block are compared where none is the one wanted. Where many prompts begin
# with the same few tokens, any of them will do.
_NEAREST_OF = 16


class Block:
    """One block in memory, encoded. Nothing in it changes.

    name, parent, tags: digests. position: blocks before it. tokens: as in a Record.
    """

    __slots__ = ("codec", "name", "parent", "payload", "position", "tags", "tokens", "weight")

    def __init__(
        self,
        *,
        name: bytes,
        parent: bytes,
        position: int,
        tokens: bytes,
        payload: Bytes,
        codec: str,
        tags: bytes,
    ) -> None:
        self.name, self.parent, self.position = name, parent, position
        self.tokens, self.codec, self.tags = tokens, codec, tags
        self.payload = memoryview(payload).toreadonly()
        self.weight = block_weight(self.payload.nbytes, len(tokens))

    def packed(self, payload: Bytes, codec: str) -> Block:
        """The same block in another codec."""
        return Block(
            name=self.name,
            parent=self.parent,
            position=self.position,
            tokens=self.tokens,
            payload=payload,
            codec=codec,
            tags=self.tags,
        )

    def record(self, now_us: int) -> Record:
        """The same for a tier."""
        return Record(
            key=self.name,
            kind=Kind.BLOCK,
            payload=self.payload,
            tags=self.tags,
            codec=self.codec,
            tokens=self.tokens,
            created_us=now_us,
        )


def block_weight(payload_bytes: int, tokens_bytes: int) -> int:
    """Bytes of memory that a block takes."""
    return payload_bytes + 2 * tokens_bytes + BLOCK_OVERHEAD_BYTES


class Residents:
    """The memory side of a store. Safe from any thread.

    capacity_bytes, policy: as in ``Cache``; the bound holds at every moment. news: is told what
    comes and goes. clock: seconds that never go back, for pins that end.

    Its lock is held while the index changes, never while blocks are made, read, written or
    released. Reading needs no lock: whoever has a Block keeps it.
    """

    def __init__(
        self,
        *,
        capacity_bytes: int | str,
        policy: str,
        news: News,
        clock: Callable[[], float],
    ) -> None:
        self._blocks: Cache[bytes, Block] = Cache(
            capacity_bytes=capacity_bytes,
            policy=policy,
            sizeof=lambda block: block.weight,
            on_evict=self._has_left,
        )
        self.capacity_bytes = self._blocks.stats().capacity_bytes or 0
        self._news = news
        self._clock = clock
        # Guards what follows, and every call that changes _blocks; reentered by none.
        self._lock = threading.Lock()
        self._bytes = 0
        self._evicted: list[Block] = []
        self._pins: dict[bytes, float] = {}
        # What continues a block, or begins under some tags; the newest last.
        self._followers: dict[bytes, dict[bytes, Block]] = {}
        self._next_end = math.inf

    def walk(self, prompt: Prompt, last: int) -> list[Block]:
        """The blocks here that begin the prompt, at most ``last``; counts no use."""
        found: list[Block] = []
        peek = self._blocks.peek
        for first, names in prompt.portions(0, last):
            blocks = []
            for name in names:
                block = peek(name)
                if block is None:
                    break
                blocks.append(block)
            # Names are digests of the tokens; that they agree is checked all the same.
            tokens = [block.tokens for block in blocks]
            if b"".join(tokens) != prompt.block(first, first + len(blocks)):
                agree = (each == prompt.block(first + at) for at, each in enumerate(tokens))
                blocks = blocks[: list(agree).index(False)]
            found += blocks
            if len(blocks) < len(names):
                break
        return found

    def use(self, blocks: Sequence[Block]) -> None:
        """Count a use of each, the last one first, so that the first is the most recent."""
        touch = self._blocks.touch
        for block in reversed(blocks):
            touch(block.name)

    def nearest(self, parent: bytes, tokens: bytes) -> tuple[Block | None, int]:
        """Of the newest blocks that continue ``parent`` the one that begins most like ``tokens``,
        and how many tokens they share; counts no use."""
        with self._lock:
            newest = list(islice(reversed(self._followers.get(parent, {}).values()), _NEAREST_OF))
        best, most = None, 0
        for block in newest:
            common = common_tokens(block.tokens, tokens)
            if common > most:
                best, most = block, common
        return best, most

    def add(self, blocks: Sequence[Block]) -> tuple[int, list[Block]]:
        """Insert successive blocks of one prompt, the first ones first, as far as there is room.

        Returns how many of them are here now, and what left for them, in that order. None is stored
        whose parent is not here.
        """
        with self._lock:
            self._end_pins()
            stored = 0
            for block in blocks:
                if block.name not in self._blocks and not self._insert(block):
                    break
                stored += 1
            evicted, self._evicted = self._evicted, []
        return stored, evicted

    def pin(self, blocks: Sequence[Block], ttl: float | None) -> int:
        """Keep the longest of these prefixes that is still here, until unpinned or ``ttl`` seconds
        have passed; returns its blocks. Pinning again can only make it longer."""
        with self._lock:
            self._end_pins()
            end = math.inf if ttl is None else self._clock() + ttl
            for count in range(len(blocks), 0, -1):
                name = blocks[count - 1].name
                if name in self._pins or self._blocks.pin(name):
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
                    self._blocks.unpin(names[count - 1])
                    return count
        return 0

    def discard(self, name: bytes) -> None:
        """Take a block out, and all that continue it."""
        with self._lock:
            gone = {name}
            blocks = sorted(self.all(), key=lambda block: block.position)
            for block in blocks:
                if block.parent in gone:
                    gone.add(block.name)
            for block in reversed(blocks):
                if block.name in gone:
                    self._pins.pop(block.name, None)
                    self._blocks.delete(block.name)

    def clear(self, tags: bytes | None = None) -> list[Block]:
        """Take out, pinned or not, everything or what has these tags; returns it, the ends of
        prompts first."""
        with self._lock:
            gone = sorted(self.all(), key=lambda block: -block.position)
            if tags is None:
                self._pins.clear()
                self._followers.clear()
                self._blocks.clear()
                return gone
            gone = [block for block in gone if block.tags == tags]
            for block in gone:
                self._pins.pop(block.name, None)
                self._blocks.delete(block.name)
        return gone

    def resize(self, capacity_bytes: int) -> list[Block]:
        """Change the bound; returns what left for it, the first to leave first."""
        with self._lock:
            self.capacity_bytes = capacity_bytes
            self._blocks.resize(capacity_bytes=capacity_bytes)
            while self._bytes > capacity_bytes and self._evict_one():
                pass
            evicted, self._evicted = self._evicted, []
        return evicted

    def all(self) -> list[Block]:
        """Every block, in no particular order."""
        return self._blocks.values()

    def pinned(self) -> int:
        """Prefixes that are pinned now."""
        with self._lock:
            self._end_pins()
            return len(self._pins)

    def stats(self) -> CacheStats:
        """Of the cache underneath."""
        return self._blocks.stats()

    # ---- with the lock held ---------------------------------------------------------------------

    def _insert(self, block: Block) -> bool:
        if block.position and not self._blocks.pin(block.parent):
            return False
        while True:
            try:
                self._blocks.put(block.name, block)
            except NoRoom:
                # Evicting the end of a chain may make its parent evictable, which the cache that
                # looked for room could not know.
                if self._evict_one():
                    continue
            except EntryTooLarge:
                pass
            else:
                break
            if block.position:
                self._blocks.unpin(block.parent)
            return False
        self._bytes += block.weight
        self._followers.setdefault(block.parent, {})[block.name] = block
        self._note("stored", block)
        return True

    def _evict_one(self) -> bool:
        """Evict what the policy would; False if everything is pinned."""
        before = len(self._evicted)
        if self._bytes > 1:
            self._blocks.resize(capacity_bytes=self._bytes - 1)
            self._blocks.resize(capacity_bytes=self.capacity_bytes)
        return len(self._evicted) > before

    def _has_left(self, name: bytes, block: Block, reason: str) -> None:
        self._bytes -= block.weight
        if reason != "cleared":
            followers = self._followers[block.parent]
            del followers[name]
            if not followers:
                del self._followers[block.parent]
            if block.position:
                self._blocks.unpin(block.parent)
        if reason == "capacity":
            self._evicted.append(block)
        self._note("removed", block, reason)

    def _end_pins(self) -> None:
        """Let go of the pins whose time is over."""
        if not self._pins or self._next_end > (now := self._clock()):
            return
        for name in [name for name, end in self._pins.items() if end <= now]:
            del self._pins[name]
            self._blocks.unpin(name)
        self._next_end = min(self._pins.values(), default=math.inf)

    def _note(self, kind: str, block: Block, reason: str = "") -> None:
        if self._news.wanted:
            self._news.note(
                BlockEvent(
                    "stored" if kind == "stored" else "removed",
                    block.name,
                    block.parent,
                    block.position,
                    block.tokens,
                    reason,
                )
            )
