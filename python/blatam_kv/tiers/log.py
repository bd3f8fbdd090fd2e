"""The files of a disk tier: lock, manifest and segments; what is believed after a crash.

A Log knows where records lie, not which of them count: it hands them to its owner in the order in
which they were written. Appending, rolling and dropping are for one thread at a time, which its
owner sees to; reading and ``sync`` are for any. Everything here raises OSError, and leaves a state
from which the call can be repeated unless ``broken`` says that it cannot.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from blatam_kv.errors import Unavailable
from blatam_kv.record import Bytes
from blatam_kv.tiers.checkpoint import Covered, read_checkpoint, write_checkpoint
from blatam_kv.tiers.files import OUR_OWN_LIMITS, Files, write_all
from blatam_kv.tiers.lock import abandoned_in_children, take_lock
from blatam_kv.tiers.manifest import Manifest, read_manifest, write_manifest
from blatam_kv.tiers.segment import (
    SEGMENT_HEADER_BYTES,
    STORE_ID_BYTES,
    Found,
    Segment,
    SegmentHeader,
    pack_segment_header,
    read_segment,
    segment_name,
    segment_number,
    walk,
)


class Indexer(Protocol):
    """Who is told what lies in a log."""

    def take(self, window: bytes, segment: int, offset: int, end: int) -> int:
        """Intact records, as ``Index.take``."""
        ...

    def record(self, segment: int, found: Found) -> None:
        """One that needed mending."""
        ...

    def hole(self) -> None:
        """Forget all that was handed over."""
        ...

    def restore(self, entries: memoryview, missing: Collection[int]) -> bool:
        """Take a checkpoint's entries but for those in segments that left; False for none."""
        ...


class Log:
    """The files under one folder.

    segments: oldest first, the head last. holes: how often something unreadable was met that may
    have held anything. broken: why nothing can be written any more. forked: this process is not
    the one that opened it.
    """

    def __init__(self, folder: Path, files: Files, *, read_only: bool) -> None:
        self.folder = folder
        self.files = files
        self.segments: list[Segment] = []
        self.tags: dict[str, str] = {}
        self.holes = 0
        self.syncs = 0
        self.broken: Unavailable | None = None
        self.forked = False
        self._entries = folder / "entries"
        self._manifest: Manifest | None = None
        self._sync_lock = threading.Lock()
        self._written = 0  # bytes ever appended here
        self._synced = 0  # how many of them have reached the disk
        self._head_fd = -1
        self._lock_fd = -1
        if not read_only:
            files.make_folder(self._entries)
            self._lock_fd = take_lock(files, folder)
        abandoned_in_children(self)

    # ---- reading what is there ------------------------------------------------------------------

    def load(self, indexer: Indexer) -> set[int]:
        """Hand over every record that appeared since the last call, in order of writing.

        Returns the segments that left meanwhile.
        """
        files = self.files
        self._manifest = read_manifest(files, self.folder) or self._manifest
        if self._manifest is not None:
            self.tags = dict(self._manifest.tags)
        numbers = self._numbers()
        known = {segment.number: segment for segment in self.segments}
        store = self._store_of(numbers)
        found = [known.get(number) or self._look_at(number, store) for number in numbers]
        segments = [segment for segment in found if segment and not self._is_unborn(segment)]
        self.segments = segments
        if not known and segments and store is not None:
            self._restore(store, indexer)

        def hole() -> None:
            self.holes += 1
            indexer.hole()

        for at, segment in enumerate(segments):
            before = segments[at - 1] if at else None
            after = segments[at + 1] if at + 1 < len(segments) else None
            if segment.settled:
                continue
            if segment.header is None:
                segment.settled = True
                hole()
                continue
            if not segment.linked:
                segment.linked = True
                if before is not None and segment.header.previous != before.number:
                    hole()
            self._load_segment(segment, after, indexer, hole)
        newest = segments[-1].number if segments else 0
        if self._manifest is not None and self._manifest.newest > newest:
            hole()
        return known.keys() - {segment.number for segment in segments}

    def _load_segment(
        self,
        segment: Segment,
        after: Segment | None,
        indexer: Indexer,
        hole: Callable[[], object],
    ) -> None:
        files, number = self.files, segment.number

        def take(window: bytes, offset: int, end: int) -> int:
            return indexer.take(window, number, offset, end)

        def record(found: Found) -> None:
            indexer.record(number, found)

        try:
            fd = files.open(self._entries / segment_name(number), os.O_RDONLY)
            try:
                segment.size = files.size(fd)
                end = segment.size
                if after is not None and after.header is not None:
                    end = after.header.previous_bytes
                readable = min(end, segment.size)
                segment.scanned = walk(files, fd, segment.scanned, readable, take, record)
            finally:
                files.close(fd)
        except FileNotFoundError:
            segment.settled = True  # dropped by the writer this very moment
            return
        except OSError as error:
            if error.errno in OUR_OWN_LIMITS:
                raise
            segment.header, segment.settled = None, True
            hole()
            return
        if after is not None:
            segment.settled = True
            if segment.scanned < end:
                hole()

    def _restore(self, store: bytes, indexer: Indexer) -> None:
        """Begin with the checkpoint, if there is one and all that it covers is here or left in turn.

        A segment that is shorter than it was then was damaged: what is missing is a miss when it is
        asked for, and not a reason to believe what those keys held before.
        """
        checkpoint = read_checkpoint(self.files, self.folder, store)
        if checkpoint is None:
            return
        covered = dict(checkpoint.covered)
        oldest, newest = self.segments[0].number, checkpoint.covered[-1].number
        known = [segment for segment in self.segments if segment.number <= newest]
        sizes = [covered.pop(segment.number, 0) for segment in known]
        for segment, size in zip(known, sizes, strict=True):
            if segment.header is None or size < SEGMENT_HEADER_BYTES:
                return
        if not known or any(number > oldest for number in covered):
            return
        if indexer.restore(checkpoint.entries, covered):
            for segment, size in zip(known, sizes, strict=True):
                segment.linked, segment.scanned = True, size

    def _look_at(self, number: int, store: bytes | None) -> Segment | None:
        try:
            return read_segment(self.files, self._entries, number, store)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in OUR_OWN_LIMITS:
                raise
            return Segment(number, 0, None)

    def _store_of(self, numbers: Sequence[int]) -> bytes | None:
        """The store's id: the manifest's word, else that of the newest readable segment."""
        if self._manifest is None:
            for number in reversed(numbers):
                segment = self._look_at(number, None)
                if segment is not None and segment.header is not None:
                    self._manifest = Manifest(segment.header.store)
                    break
        return None if self._manifest is None else self._manifest.store

    def _is_unborn(self, segment: Segment) -> bool:
        """Whether a writer died, or still is, between creating a segment and using it."""
        listed = self._manifest is not None and segment.number in self._manifest.segments
        return segment.header is None and segment.size <= SEGMENT_HEADER_BYTES and not listed

    # ---- writing --------------------------------------------------------------------------------

    def begin(self, created_us: int) -> None:
        """After ``load``: make the newest segment the head, cut behind its last record, or a new one,
        also where the newest is not all there."""
        newest = self.segments[-1] if self.segments else None
        # What `load` left out died before it was used.
        for number in set(self._numbers()) - {segment.number for segment in self.segments}:
            with suppress(OSError):
                self.files.remove(self._entries / segment_name(number))
        listed = self._manifest.newest if self._manifest else 0
        whole = newest is not None and newest.header is not None and newest.size >= newest.scanned
        if newest is not None and whole and newest.number >= listed:
            path = self._entries / segment_name(newest.number)
            self._head_fd = self.files.open(path, os.O_RDWR)
            if newest.size > newest.scanned:
                self.files.cut(self._head_fd, newest.scanned)
                newest.size = newest.scanned
        else:
            self._create(created_us)

    @property
    def manifest_is_stale(self) -> bool:
        """Whether the manifest on disk is missing or does not name the head."""
        return self._manifest is None or self._manifest.newest != self.head.number

    @property
    def head(self) -> Segment:
        return self.segments[-1]

    @property
    def sealed_bytes(self) -> int:
        """Bytes on disk without the head."""
        return sum(segment.size for segment in self.segments[:-1])

    def append(self, pieces: Sequence[Bytes]) -> int:
        """Write a record at the head's end; returns its offset."""
        head = self.head
        start = head.scanned
        try:
            end = write_all(self.files, self._head_fd, pieces, start)
        except BaseException:
            self._cut()
            raise
        head.scanned = head.size = end
        self._written += end - start
        return start

    def roll(self, created_us: int) -> None:
        """Seal the head and begin a new segment."""
        with self._sync_lock:
            self._sync()
            sealed_fd = self._head_fd
            self._create(created_us)
        self.files.close(sealed_fd)

    def sync(self, ticket: int | None = None) -> None:
        """Return when what was appended up to ``ticket`` (now) has reached the disk.

        Callers queue at the lock. The first one's fsync covers all that was appended before it
        began, so most of those behind it find their bytes on disk and return at once.
        """
        ticket = self._written if ticket is None else ticket
        if self._synced < ticket:
            with self._sync_lock:
                if self._synced < ticket:
                    self._sync()

    @property
    def ticket(self) -> int:
        """What to give ``sync``."""
        return self._written

    def drop_oldest(self) -> None:
        """Remove the oldest segment, which is not the head, durably: who deletes a key that was in
        it must not find it again after a power cut."""
        with suppress(FileNotFoundError):
            self.files.remove(self._entries / segment_name(self.segments[0].number))
        del self.segments[0]
        self.files.sync_folder(self._entries)

    def write_manifest(self) -> None:
        """Replace the manifest by one that names the segments and tags of now."""
        assert self._manifest is not None
        numbers = tuple(segment.number for segment in self.segments)
        manifest = Manifest(self._manifest.store, numbers, self.tags)
        write_manifest(self.files, self.folder, manifest)
        self._manifest = manifest

    def write_checkpoint(self, entries: bytearray) -> None:
        """Keep the index as it is now. Requires that everything is on disk and nothing is a hole."""
        assert self._manifest is not None
        covered = [Covered(segment.number, segment.scanned) for segment in self.segments]
        write_checkpoint(self.files, self.folder, self._manifest.store, covered, entries)

    def knows(self, number: int) -> bool:
        """Whether a segment is here and was not dropped."""
        return any(segment.number == number for segment in self.segments)

    def open_segment(self, number: int) -> int:
        """A descriptor to read from, which the caller closes."""
        # Not through Path, whose joining takes as long as the call.
        return self.files.open(f"{self._entries}/{segment_name(number)}", os.O_RDONLY)

    def close(self) -> None:
        """Sync, close, unlock; the last two even if the first fails."""
        if self.forked:
            return
        try:
            if self._head_fd >= 0 and self.broken is None:
                self.sync()
        finally:
            with self._sync_lock:
                self._close_descriptors()

    def abandon(self) -> None:
        """In a forked child: let go of what belongs to the parent, whose locks say nothing here."""
        self.forked = True
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        for fd in (self._head_fd, self._lock_fd):
            if fd >= 0:
                with suppress(OSError):
                    self.files.close(fd)
        self._head_fd = self._lock_fd = -1

    def _numbers(self) -> list[int]:
        return sorted(filter(None, map(segment_number, self.files.names(self._entries))))

    def _create(self, created_us: int) -> None:
        """A new head. Its predecessor is the newest segment ever named, whether still there or not:
        a missing one then stays visible as a hole."""
        files, before = self.files, self.segments[-1] if self.segments else None
        if self._manifest is None:
            self._manifest = Manifest(files.random(STORE_ID_BYTES))
        previous = max(self._manifest.newest, before.number if before else 0)
        number = max([previous, *self._numbers()]) + 1
        header = SegmentHeader(
            self._manifest.store, number, previous, before.scanned if before else 0, created_us
        )
        path = self._entries / segment_name(number)
        fd = files.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            write_all(files, fd, [pack_segment_header(header)], 0)
            files.sync(fd)
            files.sync_folder(self._entries)
        except BaseException:
            files.close(fd)
            with suppress(OSError):
                files.remove(path)
            raise
        segment = Segment(number, SEGMENT_HEADER_BYTES, header, linked=True)
        self._head_fd = fd
        self.segments.append(segment)

    def _sync(self) -> None:
        """fsync the head, with the lock held. After a failure the kernel may have dropped what it
        could not write and call it clean, so no later fsync can be believed."""
        if self.broken is not None:
            raise OSError(errno.EIO, "an earlier fsync failed")
        upto = self._written
        try:
            self.files.sync(self._head_fd)
        except OSError:
            self.broken = Unavailable.IO_ERROR
            raise
        self.syncs += 1
        self._synced = upto

    def _cut(self) -> None:
        """Leave nothing behind the head's last record. If that fails, a shorter record written
        later would be followed by the remains of a longer one, so none is."""
        try:
            self.files.cut(self._head_fd, self.head.scanned)
            self.head.size = self.head.scanned
        except OSError:
            self.broken = Unavailable.IO_ERROR
