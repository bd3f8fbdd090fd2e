"""What other nodes have: a tier that is shared over a network, as one store sees it.

Nothing waits for it that need not. What is saved here goes there by a thread of its own, and what
finds no room on its way there is not shared; a block is the same whoever computed it, so a lost one
costs somebody a computation and nothing else. What is fetched is fetched because that is quicker
than to compute it (``worth``).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial

from blatam_kv.blocks.block import Block
from blatam_kv.blocks.cold import cooled
from blatam_kv.blocks.counts import Counts, FarStats
from blatam_kv.blocks.payload import Packing
from blatam_kv.blocks.worth import Worth
from blatam_kv.errors import TierUnavailable
from blatam_kv.record import Record, packed_bytes
from blatam_kv.tiers.lock import abandoned_in_children
from blatam_kv.tiers.protocol import Rests, SharedTier
from blatam_kv.tiers.took import Took, timed
from blatam_kv.tracing import Kind, span

# What is handed on in one call, and what is fetched in one.
PORTION_BYTES = 4 << 20
_PORTION_BLOCKS = 64
_REDIS = {"db.system.name": "redis"}  # OpenTelemetry's words for it
# Names that are remembered as being there, so that nobody asks for them at each save.
_NAMES = 1 << 16
# What a close may take to hand on what waits.
_CLOSE_SECONDS = 5.0


class Far:
    """A shared tier, or none. Safe from any thread; raises nothing.

    tier: closed with this. queue_bytes: most bytes of blocks on their way there. cold: how they are
    there, if not as in memory. counts: of the store. Until ``begin`` nothing is shared: a store that
    does not know its model could give another model's blocks.
    """

    def __init__(
        self,
        tier: SharedTier | None,
        *,
        queue_bytes: int,
        counts: Counts,
        cold: Packing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tier = tier
        self._most = queue_bytes
        self._cold, self._damaged = cold, partial(counts.add, damaged=1)
        self._clock = clock
        self.worth = Worth(clock)
        self.took = Took()
        self._began = False
        # Guards what follows; never held while the tier works.
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)  # something came, or went, or closing
        self._waiting: deque[Block] = deque()
        self._writing: tuple[Block, ...] = ()
        self._bytes = 0
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._counts: dict[str, int] = dict.fromkeys(
            ("hits", "misses", "written", "dropped", "failures"), 0
        )
        self._failing = False
        self._closing: float | None = None  # when a close gives up
        self._thread: threading.Thread | None = None
        abandoned_in_children(self)

    def begin(self) -> None:
        """From now on names say which model they are of."""
        self._began = self._tier is not None

    @property
    def shares(self) -> bool:
        """Whether anything is shared."""
        return self._began and self._closing is None

    def sizes(self, names: Sequence[bytes]) -> list[int]:
        """Bytes of each block there, 0 for none; one round trip."""
        nothing = [0] * len(names)
        if self._tier is None or not self.shares or not names:
            return nothing
        began = self._clock()
        try:
            sizes = self._tier.sizes_many(names)
        except TierUnavailable:
            self._count(failures=1, failing=True)
            return nothing
        self.worth.asked(self._clock() - began)
        self._count(failing=False)
        self._learn(names, sizes)
        return sizes

    def fetch(self, names: Sequence[bytes]) -> list[Record | None]:
        """The record of each, as the tier verified it."""
        if self._tier is None or not self.shares or not names:
            return [None] * len(names)
        began = self._clock()
        try:
            with timed(self.took.get), span("GET", _REDIS, kind=Kind.CLIENT):
                records = self._tier.get_many(names)
        except TierUnavailable:
            self._count(failures=1, failing=True)
            return [None] * len(names)
        size = sum(packed_bytes(record) for record in records if record is not None)
        self.worth.brought(size, self._clock() - began)
        misses = records.count(None)
        self._count(hits=len(records) - misses, misses=misses, failing=False)
        self._learn(names, [record is not None for record in records])
        return records

    def keep(self, blocks: Sequence[Block]) -> None:
        """Let the others have these, the first ones first, some time later."""
        if not self.shares:
            return
        with self._lock:
            for block in blocks:
                if block.name in self._known:
                    self._known.move_to_end(block.name)
                elif self._bytes + block.weight > self._most:
                    self._counts["dropped"] += 1
                else:
                    self._remember(block.name)
                    self._waiting.append(block)
                    self._bytes += block.weight
            if self._waiting and self._thread is None:
                self._thread = threading.Thread(
                    target=self._hand_on, name="blatam-kv-far", daemon=True
                )
                self._thread.start()
            self._moved.notify_all()

    def forget(self, names: Sequence[bytes]) -> None:
        """Delete blocks."""
        if self._tier is None or not self.shares or not names:
            return
        gone = frozenset(names)
        self._unqueue(lambda block: block.name in gone)
        try:
            self._tier.delete_many(names)
        except TierUnavailable:
            self._count(failures=1, failing=True)

    def forget_tagged(self, tags: bytes | None) -> None:
        """Delete every block, or every one with these tags, whoever brought it."""
        if self._tier is None or self._closing is not None:
            return
        self._unqueue(lambda block: tags is None or block.tags == tags)
        with self._lock:
            self._known.clear()
        try:
            self._tier.delete_tagged(tags)
        except TierUnavailable:
            self._count(failures=1, failing=True)

    def flush(self) -> None:
        """Return when what was kept has been handed on, or dropped."""
        with self._lock:
            while self._waiting or self._writing:
                self._moved.wait()

    def stats(self) -> FarStats | None:
        """Exact counters; None where nothing is shared by anybody."""
        if self._tier is None:
            return None
        with self._lock:
            return FarStats(
                **self._counts,
                failing=self._failing,
                left_alone=isinstance(self._tier, Rests) and self._tier.left_alone,
                queued_bytes=self._bytes,
                trip_seconds=self.worth.trips.seconds(1),
                bytes_per_second=self.worth.bytes.per_second,
                tokens_per_second=self.worth.tokens.per_second,
            )

    def close(self) -> None:
        """Hand on what can be in a moment, and close the tier."""
        with self._lock:
            self._closing = time.monotonic() + _CLOSE_SECONDS
            self._moved.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._tier is not None:
            self._tier.close()

    def abandon(self) -> None:
        """In a forked child: the thread stayed with the parent, and so do the connections."""
        self._tier = self._thread = None
        self._began = False

    # ---- inside ---------------------------------------------------------------------------------

    def _hand_on(self) -> None:
        while True:
            with self._lock:
                self._writing = ()
                self._moved.notify_all()
                while not self._waiting and self._closing is None:
                    self._moved.wait()
                if self._closing is not None and time.monotonic() >= self._closing:
                    self._counts["dropped"] += len(self._waiting)
                    self._waiting.clear()
                    self._bytes = 0
                if not self._waiting:
                    return
                blocks = self._portion()
            written = self._write(blocks)
            with self._lock:
                self._bytes -= sum(block.weight for block in blocks)
                self._counts["written"] += written or 0
                if written is None:
                    self._counts["dropped"] += len(blocks)
                    for block in blocks:
                        self._known.pop(block.name, None)

    def _portion(self) -> tuple[Block, ...]:
        """The oldest that wait, now being written; with the lock held."""
        blocks: list[Block] = []
        room = PORTION_BYTES
        while self._waiting and len(blocks) < _PORTION_BLOCKS:
            room -= self._waiting[0].weight
            if blocks and room < 0:
                break
            blocks.append(self._waiting.popleft())
        self._writing = tuple(blocks)
        return self._writing

    def _write(self, blocks: Sequence[Block]) -> int | None:
        """How many of these the tier had not got and has now; None where it fails."""
        assert self._tier is not None
        now_us = time.time_ns() // 1000
        try:
            there = self._tier.sizes_many([block.name for block in blocks])
            new = [
                block.record(now_us) for block, size in zip(blocks, there, strict=True) if not size
            ]
            if self._cold is not None:
                new = list(cooled(new, self._cold, self._damaged))
            written = 0
            if new:
                with timed(self.took.put):
                    written = self._tier.put_many(new)
        except Exception:  # the thread must outlive any tier
            self._count(failures=1, failing=True)
            return None
        self._count(failing=False)
        return written

    def _unqueue(self, goes: Callable[[Block], bool]) -> None:
        """Take out what waits, and let what is being written arrive, so that it can be deleted."""
        with self._lock:
            stays = [block for block in self._waiting if not goes(block)]
            gone = [block for block in self._waiting if goes(block)]
            self._waiting = deque(stays)
            self._bytes -= sum(block.weight for block in gone)
            for block in gone:
                self._known.pop(block.name, None)
            while any(map(goes, self._writing)):
                self._moved.wait()

    def _learn(self, names: Sequence[bytes], there: Sequence[int]) -> None:
        with self._lock:
            waiting = {block.name for block in (*self._waiting, *self._writing)}
            for name, size in zip(names, there, strict=True):
                if size:
                    self._remember(name)
                elif name not in waiting:
                    self._known.pop(name, None)

    def _remember(self, name: bytes) -> None:
        self._known[name] = None
        self._known.move_to_end(name)
        if len(self._known) > _NAMES:
            self._known.popitem(last=False)

    def _count(self, *, failing: bool | None = None, **more: int) -> None:
        with self._lock:
            for name, count in more.items():
                self._counts[name] += count
            if failing is not None:
                self._failing = failing
