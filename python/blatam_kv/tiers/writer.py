"""What a disk tier appends: records at the head, room made for them, manifest and checkpoint in step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from blatam_kv.errors import TierUnavailable, Unavailable
from blatam_kv.record import HEADER_BYTES, Bytes, Kind, Record, pack
from blatam_kv.tiers.bounds import Bounds
from blatam_kv.tiers.checkpoint import checkpoint_bytes
from blatam_kv.tiers.counts import Counts
from blatam_kv.tiers.eviction import evict
from blatam_kv.tiers.index import Index, Place
from blatam_kv.tiers.log import Log

# So many bytes are appended for one of the checkpoint, so that keeping it costs an eighth at most.
_CHECKPOINT_EVERY = 8


class Packed(NamedTuple):
    """A record as it is written: size is that of all its pieces."""

    key: bytes
    pieces: Sequence[Bytes]
    size: int


class Writer:
    """The one that changes a log and its index. Safe from any thread; raises OSError.

    dropped: hears of the segments that leave. failing: why the last write failed, None after one
    that did not. lock: held while something is written; reading never takes it.
    """

    def __init__(
        self,
        log: Log,
        index: Index,
        bounds: Bounds,
        counts: Counts,
        *,
        dropped: Callable[[int], object],
        clock: Callable[[], float],
    ) -> None:
        self._log, self._index, self._bounds, self._counts = log, index, bounds, counts
        self._dropped, self._clock = dropped, clock
        self._closed = False
        self._saved_at = log.ticket
        self.failing: Unavailable | None = None
        self.lock = threading.Lock()

    def begin(self, tags: dict[str, str] | None) -> None:
        """After the log was loaded, before anything else. tags: None keeps those that are there."""
        log = self._log
        changed = tags is not None and tags != log.tags
        if tags is not None:
            log.tags = tags
        log.begin(self._now_us())
        if log.head.size > self._bounds.segment_bytes:  # from a time of larger bounds
            log.roll(self._now_us())
        self._evict()
        if changed or log.manifest_is_stale:
            self._write_manifest()

    def put(self, records: Sequence[Packed]) -> None:
        """Append records, each of which fits a segment, and index them.

        As many as fit are handed to the kernel at once: for those of 256 KiB that is a fifth less
        work than one by one, because it can keep them in larger pieces.
        """
        with self.lock:
            at = 0
            while at < len(records):
                self._make_room(records[at].size)
                end, left = at, self._bounds.segment_bytes - self._log.head.scanned
                while end < len(records) and records[end].size <= left:
                    left -= records[end].size
                    end += 1
                run = records[at:end]
                offset = self._append([piece for each in run for piece in each.pieces])
                number = self._log.head.number
                for each in run:
                    self._index.set(each.key, Place(number, offset, each.size))
                    offset += each.size
                self._counts.add("puts", len(run))
                at = end

    def delete(self, key: bytes) -> bool:
        """Append a tombstone and forget the key; returns whether it was known."""
        with self.lock:
            known = key in self._index
            # What could not be read now may be readable tomorrow.
            if known or self._log.holes or self._counts["damaged"]:
                tombstone = Record(key, Kind.TOMBSTONE, created_us=self._now_us())
                self._make_room(HEADER_BYTES)
                self._append(pack(tombstone))
                self._index.forget(key)
        if known:
            self._counts.add("deletes")
        return known

    def set_tags(self, tags: dict[str, str]) -> None:
        """Replace the words about the store, durably."""
        with self.lock:
            old, self._log.tags = self._log.tags, tags
            try:
                self._log.write_manifest()
            except BaseException:
                self._log.tags = old
                raise

    def close(self) -> None:
        """Sync, keep the index and close the log; with the lock held."""
        self._closed = True
        try:
            if self._log.broken is None and self._log.ticket != self._saved_at:
                self._save_index()
        finally:
            self._log.close()

    def _make_room(self, size: int) -> None:
        """Have a head that takes so many bytes."""
        log = self._log
        if self._closed:
            raise closed(log.folder)
        if log.broken is not None:
            raise broken(log.folder)
        if log.head.scanned + size > self._bounds.segment_bytes:
            self._evict(second_chance=False)
            log.roll(self._now_us())
            self._evict()
            self._write_manifest()
            if log.ticket - self._saved_at >= _CHECKPOINT_EVERY * self._index.saved_bytes:
                self._save_index()

    def _append(self, pieces: Sequence[Bytes]) -> int:
        """Where they lie in the head."""
        offset = self._log.append(pieces)
        self.failing = None
        return offset

    def _evict(self, *, second_chance: bool = True) -> None:
        evict(
            self._log,
            self._index,
            self._bounds,
            second_chance=second_chance,
            count=self._counts.add,
            failed=self._counts.failed,
            dropped=self._dropped,
        )

    def _save_index(self) -> None:
        """Keep a checkpoint, if all that it covers is on disk, believed and small enough."""
        log, size = self._log, self._index.saved_bytes
        log.sync()
        whole = checkpoint_bytes(len(log.segments), size)
        if log.holes or whole > self._bounds.checkpoint_bytes:
            return
        try:
            log.write_checkpoint(self._index.save())
            self._saved_at = log.ticket
        except OSError as error:
            self._counts.failed(error)

    def _write_manifest(self) -> None:
        """A manifest that cannot be written now is written later: segments speak for themselves."""
        try:
            self._log.write_manifest()
        except OSError as error:
            self._counts.failed(error)

    def _now_us(self) -> int:
        return int(self._clock() * 1e6)


def closed(path: Path) -> TierUnavailable:
    """What a closed tier raises."""
    return TierUnavailable(Unavailable.CLOSED, f"the disk tier at {path} is closed")


def broken(path: Path) -> TierUnavailable:
    """What a tier raises that can be read and not written."""
    return TierUnavailable(
        Unavailable.IO_ERROR,
        f"the disk tier at {path} writes no more after a failed fsync or truncation; "
        "look after the disk, then open it anew",
    )
