"""What lies below memory: a tier that may fail at any time without anyone noticing."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from blatam_kv.blocks.cold import Cold
from blatam_kv.blocks.counts import Counts
from blatam_kv.blocks.far import Far
from blatam_kv.blocks.layout import KVLayout
from blatam_kv.blocks.payload import Packing
from blatam_kv.cache import byte_count
from blatam_kv.errors import ConfigError, TierUnavailable
from blatam_kv.record import Record
from blatam_kv.tiers import DiskStats, DiskTier, Tier, WriteBehind
from blatam_kv.tiers.bounds import RESERVED_BYTES, bounds
from blatam_kv.tiers.protocol import borrowed
from blatam_kv.tiers.segment import MAX_SEGMENT_BYTES, SEGMENT_HEADER_BYTES
from blatam_kv.tiers.took import Took
from blatam_kv.tracing import span

# Blocks that a segment holds at least, so that little of it stays empty.
_SEGMENT_BLOCKS = 4
_REFRESH_SECONDS = 1.0


class Below:
    """The tier of a store, or none. Safe from any thread; raises nothing but on ``close``.

    tier: where blocks go. cold: how they are there if not as in memory. queue_bytes: what may wait to
    be written by a thread of its own; 0: ``keep`` returns when it is written. far: what other nodes
    have, below the tier. counts: of the store.

    A call that the tier cannot serve is counted and answered as if nothing were there. closing: set
    by the store when it takes no more calls.
    """

    def __init__(
        self,
        tier: Tier | None,
        *,
        read_only: bool,
        clock: Callable[[], float],
        counts: Counts,
        far: Far,
        cold: Packing | None = None,
        queue_bytes: int = 0,
    ) -> None:
        self.far = far
        self._disk = tier if isinstance(tier, DiskTier) else None
        if tier is not None and cold is not None:
            tier = Cold(tier, cold, partial(counts.add, damaged=1))
        self._behind = None
        if tier is not None and queue_bytes and not read_only:
            tier = self._behind = WriteBehind(tier, queue_bytes=queue_bytes)
        self._tier = tier
        self._clock = clock
        self.read_only = read_only
        self._refresh_at = clock() + _REFRESH_SECONDS
        self._lock = threading.Lock()  # guards _failures and _refresh_at
        self.writable = tier is not None and not read_only
        self._failures = 0
        self.closing = False

    @property
    def is_folder(self) -> bool:
        """Whether it is a disk tier, which keeps what is not a block too."""
        return self._disk is not None

    def known(self, names: Sequence[bytes]) -> list[bool]:
        """Whether each is there, without reading it."""
        if self._tier is None or not names:
            return [False] * len(names)
        try:
            known = self._tier.contains_many(names)
            if self.read_only and not all(known) and self._may_refresh():
                self.refresh()
                known = self._tier.contains_many(names)
        except TierUnavailable:
            self._failed()
            return [False] * len(names)
        return known

    def fetch(self, names: Sequence[bytes]) -> list[Record | None]:
        """The record of each, as the tier verified it."""
        if self._tier is None or not names:
            return [None] * len(names)
        try:
            return self._tier.get_many(names)
        except TierUnavailable:
            self._failed()
            return [None] * len(names)

    @contextmanager
    def borrowed(self, names: Sequence[bytes]) -> Iterator[Sequence[Record | None]]:
        """The same until the end of the ``with`` block, without a copy where the tier can."""
        with ExitStack() as stack:
            records: Sequence[Record | None] = [None] * len(names)
            if self._tier is not None and names:
                try:
                    with span("disk.get"):
                        records = stack.enter_context(borrowed(self._tier, names))
                except TierUnavailable:
                    self._failed()
            yield records

    def keep(self, records: Sequence[Record], *, durable: bool = False) -> bool:
        """Store them in this order; True if all were."""
        if self._tier is None or not self.writable:
            return False
        try:
            return self._tier.put_many(records, durable=durable) == len(records)
        except TierUnavailable:
            self._failed()
            return False

    def forget(self, names: Sequence[bytes]) -> None:
        """Delete records, also what other nodes have of them."""
        self.far.forget(names)
        if self._tier is None or not self.writable:
            return
        try:
            self._tier.delete_many(names)
        except TierUnavailable:
            self._failed()

    def forget_tagged(self, tags: bytes | None) -> None:
        """Delete every record, or every one with these tags, where the tier can list them."""
        self.far.forget_tagged(tags)
        if self._disk is None or not self.writable:
            return
        self.flush()
        names = []
        try:
            names = self._disk.keys() if tags is None else self._disk.keys_tagged(tags)
        except TierUnavailable:
            self._failed()
        self.forget(names)

    def flush(self) -> None:
        """Return when what was kept has been written."""
        self.far.flush()
        if self._behind is None:
            return
        try:
            self._behind.flush()
        except TierUnavailable:
            self._failed()

    def sync(self) -> None:
        """Return when what was kept has reached the disk."""
        self.flush()
        if self._disk is None or not self.writable:
            return
        try:
            self._disk.sync()
        except TierUnavailable:
            self._failed()

    def refresh(self) -> None:
        """See what another process has written since."""
        if self._disk is None or not self.read_only:
            return
        try:
            self._disk.refresh()
        except TierUnavailable:
            self._failed()

    @property
    def model(self) -> str:
        """The model that the folder is bound to, "" for none."""
        return self._disk.tags.get("model", "") if self._disk is not None else ""

    def describe(self, layout: KVLayout, codec: str, model: str) -> None:
        """Write down what is stored here. A model that is there already stays."""
        if self._disk is None or not self.writable:
            return
        old = self._disk.tags
        shape = f"{layout.layers} layers, {layout.kv_heads} heads of {layout.head_dim}"
        new = old | {
            "layout": f"{shape}, {layout.dtype}, blocks of {layout.block_tokens} tokens",
            "codec": codec,
        }
        if model:
            new.setdefault("model", model)
        if new == old:
            return
        try:
            self._disk.set_tags(new)
        except TierUnavailable:
            self._failed()

    @property
    def failures(self) -> int:
        """Calls that the tier did not serve, and blocks that it refused later."""
        return self._failures + (self._behind.stats().dropped if self._behind is not None else 0)

    @property
    def queued_bytes(self) -> int:
        """What waits to be written."""
        return self._behind.stats().queued_bytes if self._behind is not None else 0

    @property
    def took(self) -> Took | None:
        """How long the tier takes, where a thread of its own writes there."""
        return None if self._behind is None else self._behind.took

    def stats(self) -> DiskStats | None:
        """Of a disk."""
        return self._disk.stats() if self._disk is not None else None

    def close(self) -> None:
        """Close both. Raises TierUnavailable if what was kept cannot be written out."""
        try:
            if self._tier is not None:
                self._tier.close()
        finally:
            self.far.close()

    def _may_refresh(self) -> bool:
        now = self._clock()
        with self._lock:
            if now < self._refresh_at:
                return False
            self._refresh_at = now + _REFRESH_SECONDS
        return True

    def _failed(self) -> None:
        with self._lock:
            self._failures += 1


def open_disk(
    path: Path,
    block_bytes: int,
    *,
    capacity_bytes: int,
    disk_bytes: int | str | None,
    read_only: bool,
) -> DiskTier:
    """The folder's tier, with segments that suit records of ``block_bytes``.

    Raises ConfigError for a bound that is too small for them, and what DiskTier raises.
    """
    if read_only:
        return DiskTier(path, read_only=True)
    if disk_bytes is None:
        bound = min(8 * capacity_bytes, _free_bytes(path) // 2)
    else:
        bound = byte_count("disk_bytes", disk_bytes)
    size = SEGMENT_HEADER_BYTES + block_bytes
    least = max(1 << 20, RESERVED_BYTES + 4 * size)
    if size > MAX_SEGMENT_BYTES:
        raise ConfigError(
            f"a block takes {size} bytes on disk, and {MAX_SEGMENT_BYTES} is the most"
        )
    if bound < least:
        if disk_bytes is None:
            bound = least
        else:
            raise ConfigError(f"disk_bytes must be at least {least} for such blocks, not {bound}")
    most = min(MAX_SEGMENT_BYTES, (bound - RESERVED_BYTES) // 4)
    segment = max(bounds(bound, None).segment_bytes, min(_SEGMENT_BLOCKS * size, most))
    return DiskTier(path, disk_bytes=bound, segment_bytes=segment)


def _free_bytes(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free
