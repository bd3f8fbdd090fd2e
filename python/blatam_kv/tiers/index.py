"""Which record of a disk tier is each key's: key → place."""

from __future__ import annotations

import threading
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from blatam_kv.record import ALIGNMENT

_USED = 1
_UNITS = 24  # bits that hold an offset or a length of up to 2^30 bytes, in units of ALIGNMENT


class Place(NamedTuple):
    """Where a record lies."""

    segment: int
    offset: int
    size: int


class Index:
    """A dict of packed places. Every call is safe from any thread; no call waits for anything.

    An entry is the key and one int: segment, offset and size in units of 64 bytes, and a bit for
    "read since it was written". Its lock is the last in order.
    """

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def get(self, key: bytes) -> Place | None:
        """Where the key's record lies."""
        packed = self._places.get(key)
        if packed is None:
            return None
        packed >>= 1
        mask = (1 << _UNITS) - 1
        return Place(
            packed >> 2 * _UNITS,
            (packed >> _UNITS & mask) * ALIGNMENT,
            (packed & mask) * ALIGNMENT,
        )

    def set(self, key: bytes, place: Place) -> None:
        """The key's record lies there now, and was not read yet."""
        packed = _pack(place)
        with self._lock:
            self._places[key] = packed

    def use(self, key: bytes, place: Place) -> None:
        """The record was read, if it still lies there."""
        packed = _pack(place)
        with self._lock:
            if self._places.get(key) == packed:
                self._places[key] = packed | _USED

    def was_used(self, key: bytes) -> bool:
        """Whether the key's record was read since it was written there."""
        return bool(self._places.get(key, 0) & _USED)

    def forget(self, key: bytes, place: Place | None = None) -> bool:
        """Drop the key, if its record lies there (anywhere); returns whether it was dropped."""
        with self._lock:
            packed = self._places.get(key)
            if packed is None or (place is not None and packed & ~_USED != _pack(place)):
                return False
            del self._places[key]
            return True

    def forget_segments(self, numbers: AbstractSet[int]) -> int:
        """Drop all keys whose records lie in these; looks at every entry. Returns how many."""
        places = self._places
        with self._lock:
            gone = [key for key, packed in places.items() if packed >> 2 * _UNITS + 1 in numbers]
            for key in gone:
                del places[key]
        return len(gone)

    def clear(self) -> None:
        """Drop every key."""
        with self._lock:
            self._places.clear()


def _pack(place: Place) -> int:
    packed = place.segment << _UNITS | place.offset // ALIGNMENT
    return (packed << _UNITS | place.size // ALIGNMENT) << 1
