"""What a disk tier counts."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from blatam_kv.errors import Unavailable
from blatam_kv.tiers.files import reason_of


@dataclass(frozen=True, slots=True)
class DiskStats:
    """A disk tier's counters at one moment.

    entries are keys that can be found, index_bytes what finding them takes of memory; bytes what
    segments take on disk, disk_bytes the bound. damaged counts records that failed verification or
    were mended only to be skipped, holes the times when something unreadable made all older records
    unbelievable. evicted counts entries dropped with their segment, kept those that were appended
    again. failures counts errors of the operating system by reason; failing is the reason why the
    last write failed, None after one that succeeded. network: the kind of network file system that
    the folder is on, "" for a local one.
    """

    entries: int
    index_bytes: int
    bytes: int
    disk_bytes: int | None
    segments: int
    hits: int
    misses: int
    puts: int
    deletes: int
    refused: int
    expired: int
    evicted: int
    kept: int
    damaged: int
    holes: int
    syncs: int
    failures: dict[str, int]
    failing: Unavailable | None
    network: str


class Counts:
    """Counters by name. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    def add(self, name: str, by: int = 1) -> None:
        """Count."""
        with self._lock:
            self._counts[name] += by

    def failed(self, error: OSError) -> Unavailable:
        """Count an error of the operating system; returns its reason."""
        reason = reason_of(error)
        with self._lock:
            self._failures[reason] += 1
        return reason

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    @property
    def failures(self) -> dict[str, int]:
        """By reason."""
        with self._lock:
            return dict(self._failures)
