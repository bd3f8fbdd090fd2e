"""Records in this process's memory, bounded by bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from blatam_kv._core import CacheBase
from blatam_kv.errors import (
    ConfigError,
    EntryTooLarge,
    NoRoom,
    TierUnavailable,
    Unavailable,
)
from blatam_kv.policy import checked_options, checked_policy
from blatam_kv.record import Kind, Record

# What a record weighs beside payload and tokens: the object, its key and tags, numbers, the slot.
# Measured by tests/test_tier_memory.py.
RECORD_OVERHEAD_BYTES = 512


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """A memory tier's counters at one moment. bytes includes what records weigh themselves."""

    entries: int
    bytes: int
    capacity_bytes: int
    hits: int
    misses: int
    puts: int
    refused: int
    evictions: dict[str, int]


class MemoryTier:
    """A Tier in memory: the engine's eviction over whole records. Thread-safe.

    capacity_bytes: most bytes of payloads, tokens and what a record weighs itself. policy: as in
    ``Cache``. on_evict: called with every record that leaves for lack of room, outside any lock,
    so that the next tier may take it. clock: seconds since 1970, for tests.

    Payloads that the caller could change later are copied. ``durable`` cannot mean anything here
    and is accepted.
    """

    def __init__(
        self,
        *,
        capacity_bytes: int,
        policy: str = "lru",
        on_evict: Callable[[Record], object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if isinstance(capacity_bytes, bool) or not isinstance(capacity_bytes, int):
            raise TypeError(f"capacity_bytes must be an int, not {type(capacity_bytes).__name__}")
        if not 1 <= capacity_bytes <= 2**62:
            raise ConfigError(f"capacity_bytes must be from 1 to 2**62, not {capacity_bytes}")
        options = checked_options([checked_policy(policy)])

        def spill(_: bytes, record: Record, reason: str) -> None:
            if reason == "capacity" and on_evict is not None:
                on_evict(record)

        # The native type under `Cache`: this floor lies below `Cache` itself.
        self._records: CacheBase[bytes, Record] = CacheBase(
            0, capacity_bytes, policy, None, memory_bytes, spill, None, None, **options
        )
        self._clock = clock
        self._closed = False

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        """The record of each key, or None; an expired one is a miss and leaves."""
        self._require_open()
        now_us = self._clock() * 1e6
        found = self._records.get_many(keys)
        for at, record in enumerate(found):
            if record is not None and record.expired(now_us):
                self._records.delete(keys[at])
                found[at] = None
        return found

    def put_many(self, records: Iterable[Record], *, durable: bool = False) -> int:
        """Store records in order; returns how many were stored.

        One larger than the whole tier is left out, counted as refused, and takes with it the older
        record of its key.
        """
        self._require_open()
        stored = 0
        for record in records:
            if record.kind is Kind.TOMBSTONE:
                raise ConfigError("a tombstone cannot be put; use delete_many")
            left = record.expires_us / 1e6 - self._clock() if record.expires_us else None
            if left is not None and left <= 0:
                self._records.delete(record.key)
                continue
            if not (type(record.payload) is bytes and type(record.tokens) is bytes):
                record = replace(record, payload=bytes(record.payload), tokens=bytes(record.tokens))
            try:
                self._records.put(record.key, record, ttl=left)
            except (EntryTooLarge, NoRoom):
                self._records.delete(record.key)
            else:
                stored += 1
        return stored

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """Forget keys; returns how many were known."""
        self._require_open()
        return sum(self._records.delete(key) for key in keys)

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether each key is known; counts nothing."""
        self._require_open()
        return [key in self._records for key in keys]

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        self._records.clear()

    def stats(self) -> MemoryStats:
        """Exact counters."""
        now = self._records._counters()
        return MemoryStats(
            entries=now["entries"],
            bytes=now["bytes"],
            capacity_bytes=now["capacity_bytes"],
            hits=now["hits"],
            misses=now["misses"],
            puts=now["inserts"],
            refused=now["refused"],
            evictions=now["removals"],
        )

    def _require_open(self) -> None:
        if self._closed:
            raise TierUnavailable(Unavailable.CLOSED, "the memory tier is closed")


def memory_bytes(record: Record) -> int:
    """Bytes of memory that a record takes."""
    return (
        memoryview(record.payload).nbytes + memoryview(record.tokens).nbytes + RECORD_OVERHEAD_BYTES
    )
