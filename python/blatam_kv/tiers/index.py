"""Which record of a disk tier is each key's: key → place."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable
from typing import NamedTuple

from blatam_kv._core import Places
from blatam_kv.record import Bytes, Kind
from blatam_kv.tiers.counts import Counts
from blatam_kv.tiers.segment import Found


class Place(NamedTuple):
    """Where a record lies."""

    segment: int
    offset: int
    size: int


class Index:
    """The places of the records that count. Every call is safe from any thread; none waits long.

    At most 64 bytes an entry: key, place, and whether the record was read since it was written.
    """

    def __init__(self) -> None:
        self._places = Places()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def get(self, key: bytes) -> Place | None:
        """Where the key's record lies."""
        place = self._places.find(key)
        return None if place is None else Place(*place)

    def in_order(self) -> list[tuple[bytes, Place]]:
        """Every key and its place, in the order of writing."""
        return [(key, Place(*place)) for key, place in self._places.in_order()]

    def set(self, key: bytes, place: Place) -> None:
        """The key's record lies there now, and was not read yet."""
        self._places.set(key, *place)

    def use(self, key: bytes, place: Place) -> None:
        """The record was read, if it still lies there."""
        self._places.use(key, *place)

    def was_used(self, key: bytes) -> bool:
        """Whether the key's record was read since it was written there."""
        return self._places.used(key)

    def forget(self, key: bytes, place: Place | None = None) -> bool:
        """Drop the key, if its record lies there (anywhere); returns whether it was dropped."""
        if place is None:
            return self._places.forget(key)
        return self._places.forget_at(key, *place)

    def forget_segments(self, numbers: Iterable[int]) -> int:
        """Drop all keys whose records lie in these; looks at every entry. Returns how many."""
        return self._places.forget_segments(array("Q", numbers))

    def clear(self) -> None:
        """Drop every key."""
        self._places.clear()

    def take(self, window: Bytes, segment: int, offset: int, end: int) -> int:
        """Index what a segment's file has from offset on, as far as headers are intact, lie in the
        window and have records that end at ``end``; returns where the next one begins."""
        return self._places.take(window, segment, offset, end)

    @property
    def saved_bytes(self) -> int:
        """Bytes that ``save`` gives now."""
        return self._places.saved_bytes

    def save(self) -> bytearray:
        """All entries, to be kept in a file. Specified in docs/FORMAT.md, section 4."""
        room = bytearray(self._places.saved_bytes)
        size = self._places.save(room)
        del room[size:]
        return room

    def load(self, saved: Bytes) -> bool:
        """Set what ``save`` gave; False, and nothing is set, for what it cannot have given."""
        return self._places.load(saved)

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory it takes."""
        return self._places.memory_bytes


class Indexing:
    """Puts what a log holds into an index: an ``Indexer`` of the log."""

    def __init__(self, index: Index, counts: Counts) -> None:
        self.take = index.take
        self.hole = index.clear
        self._index, self._counts = index, counts

    def record(self, segment: int, found: Found) -> None:
        header = found.header
        if found.intact and header.kind is not Kind.TOMBSTONE:
            self._index.set(header.key, Place(segment, found.offset, header.record_bytes))
            return
        self._index.forget(header.key)
        if not found.intact:
            self._counts.add("damaged")

    def restore(self, entries: memoryview, missing: Collection[int]) -> bool:
        if not self._index.load(entries):
            return False
        self._index.forget_segments(missing)
        return True
