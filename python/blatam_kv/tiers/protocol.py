"""What a tier is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

from blatam_kv.record import Record


class Tier(Protocol):
    """A place where records are kept by key. All calls are safe from any thread.

    A tier is a cache: it may forget any record at any time, and it never answers with a record
    that was not put, was replaced, was deleted or has expired. Calls are batches, so that a tier
    far away pays its way once. Keys are 32-byte digests; whether tags and tokens agree is for the
    caller to check. Every call may raise TierUnavailable, which callers treat as a miss; after a
    ``put_many`` that raised, an unknown part of the batch is stored.

    A dict is a tier in ten lines::

        class DictTier:
            def __init__(self):
                self.records = {}
            def get_many(self, keys):
                return [self.records.get(key) for key in keys]
            def put_many(self, records, *, durable=False):
                new = {record.key: record for record in records}
                self.records.update(new)
                return len(new)
            def delete_many(self, keys):
                return sum(self.records.pop(key, None) is not None for key in keys)
            def contains_many(self, keys):
                return [key in self.records for key in keys]
            def close(self):
                self.records.clear()
    """

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        """The record of each key, verified, or None. Counts hits and misses."""
        ...

    def put_many(self, records: Iterable[Record], *, durable: bool = False) -> int:
        """Store records in order, each in place of an older one with its key.

        Returns how many were stored; a record that can never fit is left out and counted, and the
        rest go on. durable: return only when they would survive a power cut, where the tier can.
        """
        ...

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """Forget keys, for ever: no restart brings them back. Returns how many were known."""
        ...

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether each key is known, without reading or counting it; ``get_many`` may still miss."""
        ...

    def close(self) -> None:
        """Write out what was accepted and let go of all resources. Closing twice is harmless."""
        ...


class SharedTier(Tier, Protocol):
    """A Tier that several nodes share, over a network. ``RedisTier`` is one."""

    def sizes_many(self, keys: Sequence[bytes]) -> list[int]:
        """Bytes of each key's record, 0 where there is none, without reading or counting it."""
        ...

    def delete_tagged(self, tags: bytes | None) -> int:
        """Forget every record, or every one with these tags; returns how many."""
        ...


@runtime_checkable
class Rests(Protocol):
    """A Tier that is left alone for a while after it failed."""

    @property
    def left_alone(self) -> bool:
        """Whether nothing is tried for now."""
        ...


@runtime_checkable
class Lender(Protocol):
    """A Tier that can also show its records where they lie."""

    def borrow_many(self, keys: Sequence[bytes]) -> AbstractContextManager[Sequence[Record | None]]:
        """As ``get_many``, without a copy; the records are the caller's until the ``with`` block
        ends."""
        ...


def borrowed(tier: Tier, keys: Sequence[bytes]) -> AbstractContextManager[Sequence[Record | None]]:
    """What a tier lends, or else copies, of these keys."""
    if isinstance(tier, Lender):
        return tier.borrow_many(keys)
    return nullcontext(tier.get_many(keys))
