"""``Shelf``: a Cache whose entries, and what is known of their use, outlive the process."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from itertools import islice
from typing import Generic, TypeVar

from blatam_kv._core import framed_digest
from blatam_kv.cache import Cache
from blatam_kv.errors import ConfigError, EntryTooLarge, NoRoom, TierUnavailable, Unavailable
from blatam_kv.record import Kind, Record
from blatam_kv.tiers import DiskStats, DiskTier, WriteBehind
from blatam_kv.tiers.took import Took
from blatam_kv.tracing import span

V = TypeVar("V")

_PERSON = b"blatamkv-shelf-1"
_IMAGE = framed_digest([b"image"], person=_PERSON)
# What the image holds: a header (version, bytes of the policy's state, number of keys), then for each
# key, the least recently used first, its uses and whether it is pinned, then what the policy learned.
_IMAGE_HEADER = struct.Struct("<IIQ")
_IMAGE_ENTRY = struct.Struct("<32sIB3x")
_IMAGE_VERSION = 1
_SAVE_EVERY = 256
_BATCH = 64
# More uses than that are no more a reason to keep an entry, and each is repeated at the opening.
_MOST_USES = 16


class Shelf(Generic[V]):
    """A Cache in front of a DiskTier. Thread-safe.

    cache: what answers, by 32-byte digests; its capacity and policy hold. disk: where entries are kept
    too, by a thread of its own; closed with the shelf. codec: how values are encoded, a record's
    codec. encode, decode: a value as bytes and back; ValueError of ``decode`` is a miss. ttl: seconds
    that an entry lives, None for ever. clock: seconds since 1970.

    What is not in memory is looked for on disk and comes back into memory. At the opening, what was in
    memory when the shelf was last saved is read again, with its remaining time, its pins, its uses
    halved and what the policy had learned, so that a restart is warm. It is saved at the close, with
    every pin, and every so many entries: kill -9 costs the uses since then. A disk that fails is a miss
    and a counter; ``failing`` says why.
    """

    def __init__(
        self,
        cache: Cache[bytes, V],
        disk: DiskTier,
        *,
        codec: str,
        encode: Callable[[V], bytes],
        decode: Callable[[bytes], V],
        ttl: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache, self._disk = cache, disk
        self._tier = WriteBehind(disk)
        self._codec, self._encode, self._decode = codec, encode, decode
        self._tags = framed_digest([codec.encode()], person=_PERSON)
        self._ttl, self._clock = ttl, clock
        # Uses by key, the last one used last: a dict is both a count and an order.
        self._uses: dict[bytes, int] = {}
        # Of one key, one thread at a time moves values between memory and disk: an older one must
        # not come up while a newer one goes down, nor one that is just being deleted. Order: these,
        # then the lock, then the tier's.
        self._stripes = tuple(threading.RLock() for _ in range(16))
        self._lock = threading.Lock()  # guards what follows, and saving
        self._unsaved = 0
        self._failures = 0
        self._failing: Unavailable | None = None
        self.warmed = self._warm()

    def get(self, key: bytes) -> V | None:
        """The value, from memory or from disk, or None."""
        return self.find(key)[0]

    def find(self, key: bytes) -> tuple[V | None, bool]:
        """The same, and whether it had to be read from disk."""
        value, read = self._cache.get(key), False
        if value is None:
            with self._stripe(key):
                (record,) = self._fetch([key])
                value, read = self._take(record), True
        if value is not None:
            self._use(key)
        return value, read

    def keep(self, key: bytes, value: V, *, ttl: float | None = None) -> None:
        """Have the disk keep a value that the cache has, or has just refused. ttl: None for the
        shelf's own."""
        now, ttl = self._clock(), self._ttl if ttl is None else ttl
        self._use(key)
        record = Record(
            key,
            Kind.RESPONSE,
            self._encode(value),
            tags=self._tags,
            codec=self._codec,
            created_us=int(now * 1e6),
            expires_us=0 if ttl is None else int((now + ttl) * 1e6),
        )
        with self._stripe(key):
            self._put([record])
        with self._lock:
            self._unsaved += 1
            due = self._unsaved >= _SAVE_EVERY
        if due:
            self.save()

    def put(self, key: bytes, value: V) -> None:
        """Store a value in memory and on disk."""
        with self._stripe(key):
            try:
                self._cache.put(key, value, ttl=self._ttl)
            except (EntryTooLarge, NoRoom):
                self._cache.delete(key)
            self.keep(key, value)

    def delete(self, key: bytes) -> bool:
        """Forget a key, here and on disk; returns whether it was known."""
        with self._stripe(key):
            known = self._cache.delete(key)
            self._uses.pop(key, None)
            return bool(self._remove([key])) or known

    def pin(self, key: bytes) -> bool:
        """Keep a key in memory until unpinned, also after a restart; False if it is not known, or
        memory has no room for it. Pinning twice is pinning once."""
        with self._stripe(key):
            if self.get(key) is None:
                return False
            if key not in self._cache.pinned() and not self._cache.pin(key):
                return False
        self.save()
        return True

    def unpin(self, key: bytes) -> bool:
        """Let go of it; False if it was not pinned."""
        unpinned = self._cache.unpin(key)
        if unpinned:
            self.save()
        return unpinned

    def clear(self) -> None:
        """Forget everything, here and on disk."""
        with ExitStack() as all_keys:
            for stripe in self._stripes:
                all_keys.enter_context(stripe)
            self._cache.clear()
            self._uses.clear()
            try:
                self._tier.flush()
                self._tier.delete_many([*self._disk.keys_tagged(self._tags), _IMAGE])
            except TierUnavailable as error:
                self._failed(error)

    def save(self) -> None:
        """Write down what is in memory, how it was used, and what the policy learned from that."""
        with self._lock:
            self._unsaved = 0
            held, pinned = set(self._cache.keys()), set(self._cache.pinned())
            uses = {key: count for key, count in list(self._uses.items()) if key in held}
            self._uses = dict(uses)
            uses = dict.fromkeys(held - uses.keys(), 1) | uses
        entries = b"".join(
            _IMAGE_ENTRY.pack(key, min(count, 2**32 - 1), key in pinned)
            for key, count in uses.items()
        )
        learned = self._cache.save_policy()
        header = _IMAGE_HEADER.pack(_IMAGE_VERSION, len(learned), len(uses))
        image = header + entries + learned
        self._put([Record(_IMAGE, Kind.RESPONSE, image, tags=self._tags, codec="image")])

    def close(self) -> None:
        """Save, write out what waits and let go of the disk. Raises TierUnavailable if that fails."""
        self.save()
        self._tier.close()

    @property
    def failing(self) -> Unavailable | None:
        """Why the disk does not keep what it is given, None while it does."""
        return self._tier.stats().failing or self._disk.stats().failing or self._failing

    @property
    def failures(self) -> int:
        """Calls that the disk did not serve, and entries that it refused."""
        return self._failures + self._tier.stats().dropped

    @property
    def took(self) -> Took:
        """How long the disk takes."""
        return self._tier.took

    def stats(self) -> DiskStats:
        """Of the disk."""
        return self._disk.stats()

    # ---- inside ---------------------------------------------------------------------------------

    def _stripe(self, key: bytes) -> AbstractContextManager[object]:
        return self._stripes[key[0] % len(self._stripes)]

    def _use(self, key: bytes) -> None:
        self._uses[key] = self._uses.pop(key, 0) + 1

    def _take(self, record: Record | None) -> V | None:
        """A value from disk into memory, as far as there is room."""
        if record is None or record.codec != self._codec or record.tags != self._tags:
            return None
        try:
            value = self._decode(bytes(record.payload))
        except ValueError:
            self._failures += 1
            return None
        left = record.expires_us / 1e6 - self._clock() if record.expires_us else None
        if left is not None and left <= 0:
            return None
        with suppress(EntryTooLarge, NoRoom):
            return self._cache.setdefault(record.key, value, ttl=left)
        return value

    def _warm(self) -> int:
        """Read again what was in memory; returns how many entries came."""
        image = next(iter(self._fetch([_IMAGE])), None)
        came = 0
        held, learned = ([], b"") if image is None else _unfold(image)
        entries = iter(held)
        while batch := list(islice(entries, _BATCH)):
            records = self._fetch([key for key, _, _ in batch])
            for record, (key, uses, pinned) in zip(records, batch, strict=True):
                if self._take(record) is None:
                    continue
                came += 1
                half = (uses + 1) // 2
                for _ in range(min(half, _MOST_USES) - 1):
                    self._cache.touch(key)
                self._uses[key] = half
                if pinned:
                    self._cache.pin(key)
        if learned:
            # Afterwards: bringing entries back must teach the policy nothing. That of another policy
            # is refused, and this one starts anew.
            with suppress(ConfigError):
                self._cache.restore_policy(learned)
        return came

    def _fetch(self, keys: list[bytes]) -> list[Record | None]:
        try:
            with span("disk.get"):
                return self._tier.get_many(keys)
        except TierUnavailable as error:
            self._failed(error)
            return [None] * len(keys)

    def _put(self, records: list[Record]) -> None:
        try:
            self._tier.put_many(records)
        except TierUnavailable as error:
            self._failed(error)

    def _remove(self, keys: list[bytes]) -> int:
        try:
            return self._tier.delete_many(keys)
        except TierUnavailable as error:
            self._failed(error)
            return 0

    def _failed(self, error: TierUnavailable) -> None:
        with self._lock:
            self._failures += 1
            self._failing = error.reason


def _unfold(image: Record) -> tuple[list[tuple[bytes, int, bool]], bytes]:
    """Keys, uses and pins of an image, and what the policy had learned; nothing of one that is another
    version's or cut."""
    payload = bytes(image.payload)
    if image.codec != "image" or len(payload) < _IMAGE_HEADER.size:
        return [], b""
    version, learned, count = _IMAGE_HEADER.unpack_from(payload)
    end = _IMAGE_HEADER.size + count * _IMAGE_ENTRY.size
    if version != _IMAGE_VERSION or len(payload) != end + learned:
        return [], b""
    found = _IMAGE_ENTRY.iter_unpack(payload[_IMAGE_HEADER.size : end])
    return [(key, uses, bool(pinned)) for key, uses, pinned in found], payload[end:]
