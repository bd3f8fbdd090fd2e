"""Records in a Redis or Valkey that several nodes share.

One value a record, its bytes as in docs/FORMAT.md under ``NAMESPACE:1:KEY`` (the format's version, the
key in hexadecimal), so that records are independent. In a cluster they lie evenly on all servers, and
a batch is one round trip to each of those that have any of it: tags that keep a prompt's blocks on one
server would keep a tenant's whole traffic there, for they all begin alike. What comes
back is verified before it is believed: whoever can write to the server could otherwise put words
into everybody's mouth, and with a ``mac_key`` cannot even with a checksum that agrees.

A cache must never wait for a server that is away. Timeouts are short, nothing is retried but a kept
connection that the server had closed, and after three failures in a row nothing is tried for a
while (``breaker``). Of a cluster that holds for each server by itself: what the others have is served
meanwhile.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

from blatam_kv.errors import (
    ConfigError,
    CorruptRecord,
    TierUnavailable,
    Unavailable,
)
from blatam_kv.record import (
    TAGS_AT,
    VERSION,
    Kind,
    Record,
    check,
    checked_mac_key,
    pack,
    packed_bytes,
    unpack,
    unpack_owned,
)
from blatam_kv.tiers.breaker import Breaker
from blatam_kv.tiers.commands import BATCH, Commands
from blatam_kv.tiers.servers import place_of
from blatam_kv.tiers.took import Took, timed

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}(:[a-z]{1,32})?")
# Keys of one round trip that brings nothing.
_SIZES = 1024
# A value above this travels alone: many of them in one pipeline are slower than one after another.
_ALONE_BYTES = 128 << 10


@dataclass(frozen=True, slots=True)
class RedisStats:
    """A Redis tier's counters at one moment, of this process.

    damaged counts records that failed verification and were removed, refused records that are too
    large. failures counts calls that were not served, by reason; failing is the reason of the last
    call, None for one that was. left_alone: whether nothing is tried for now.
    """

    hits: int
    misses: int
    puts: int
    deletes: int
    damaged: int
    refused: int
    failures: dict[str, int]
    failing: Unavailable | None
    left_alone: bool


class RedisTier:
    """A Tier in a Redis or Valkey. Thread-safe: each call takes a connection of its own.

    url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, with user, password and database as Redis's
    own tools read them, or of a cluster (``servers``); options behind ``?`` are those of redis-py,
    ``ssl_ca_certs=…`` for example. namespace: what all keys begin with, 1 to 64 of
    ``A-Z a-z 0-9 . _ -`` and, for a part of its own, a colon and a word; nodes that share records use
    the same. ttl: seconds that a record without an end of its own stays, None for ever. timeout:
    seconds for a connection and for an answer. mac_key: 16 to 64 bytes; records are signed with it, and
    those that are not are misses. record_bytes: larger records are refused. clock: seconds since
    1970.

    Opening it does not connect. Raises ConfigError for what cannot be right, MissingExtra.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "blatam-kv",
        ttl: float | None = None,
        timeout: float = 0.1,
        mac_key: bytes | None = None,
        record_bytes: int = 4 << 20,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise ConfigError(
                "namespace must be 1 to 64 of A-Z a-z 0-9 . _ -, and a colon and a word behind them "
                f"if you like, not {namespace!r}"
            )
        if ttl is not None and not 0.001 <= ttl < 1e9:
            raise ConfigError(f"ttl must be seconds from 0.001 on, or None, not {ttl}")
        if not 0.001 <= timeout <= 60:
            raise ConfigError(f"timeout must be from 0.001 to 60 seconds, not {timeout}")
        self.place = place_of(url)
        self.namespace = namespace
        self.channel = f"{namespace}:notices".encode()  # where nodes tell one another
        self._ttl, self._timeout = ttl, timeout
        self._mac_key = None if mac_key is None else checked_mac_key(mac_key)
        self._record_bytes = record_bytes
        self._clock = clock
        self._prefix = f"{namespace}:{VERSION}:".encode()
        self._lock = Lock()
        self._hits = self._misses = 0
        self._counts: Counter[str] = Counter()
        self.took = Took()
        self.commands = Commands(
            url, self.place, timeout=timeout, channel=self.channel, breaker=breaker or Breaker()
        )
        self.ask = self.commands.ask

    # ---- the protocol ---------------------------------------------------------------------------

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        """The record of each key, verified, or None. Raises TierUnavailable."""
        with timed(self.took.get):
            found = self._get_many(keys)
        misses = found.count(None)
        with self._lock:
            self._hits += len(found) - misses
            self._misses += misses
        return found

    def put_many(self, records: Iterable[Record], *, durable: bool = False) -> int:
        """Store records in order; returns how many. Raises TierUnavailable.

        durable: accepted; whether Redis writes to a disk is for its own configuration to say.
        """
        stored, failed = 0, None
        waiting: list[tuple[bytes, bytes, int | None]] = []
        for record in records:
            if record.kind is Kind.TOMBSTONE:
                raise ConfigError("a tombstone cannot be put; use delete_many")
            check(record)
            left = self._milliseconds_left(record)
            if left is not None and left <= 0:
                failed = self._send(waiting) or failed
                self.ask("unlink", self._name(record.key))
                continue
            size = packed_bytes(record, has_mac=self._mac_key is not None)
            if size > self._record_bytes:
                self._count(refused=1)
                failed = self._send(waiting) or failed
                self.ask("unlink", self._name(record.key))
                continue
            value = b"".join(pack(record, mac_key=self._mac_key))
            waiting.append((self._name(record.key), value, left))
            stored += 1
            if size > _ALONE_BYTES or len(waiting) == BATCH:
                failed = self._send(waiting) or failed
        failed = self._send(waiting) or failed
        if failed is not None:
            raise failed
        self._count(puts=stored)
        return stored

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """Forget keys; returns how many were known. Raises TierUnavailable."""
        names = [self._name(key) for key in keys]
        known: int = sum(self.commands.each("unlink", names))
        self._count(deletes=known)
        return known

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether each key is known. Raises TierUnavailable."""
        names = [self._name(key) for key in keys]
        return [found > 0 for found in self.commands.each("exists", names, partly=True, instead=0)]

    def sizes_many(self, keys: Sequence[bytes]) -> list[int]:
        """Bytes of each key's record, 0 where there is none. Raises TierUnavailable."""
        names = [self._name(key) for key in keys]
        return self.commands.each("strlen", names, partly=True, instead=0, size=_SIZES)

    def close(self) -> None:
        """Let go of the connections."""
        self.commands.close()

    # ---- beyond it ------------------------------------------------------------------------------

    def clear(self) -> int:
        """Forget every record of the namespace; returns how many. Raises TierUnavailable."""
        return self.delete_tagged(None)

    def delete_tagged(self, tags: bytes | None) -> int:
        """Forget every record of the namespace, or every one with these tags; returns how many. Looks
        at all of them. Raises TierUnavailable."""
        known = 0
        for names in self.commands.scan(self._prefix):
            if tags is not None:
                its = self.commands.each("getrange", names, TAGS_AT.start, TAGS_AT.stop - 1)
                names = [name for name, found in zip(names, its, strict=True) if found == tags]
            known += sum(self.commands.each("unlink", names))
        self._count(deletes=known)
        return known

    @property
    def left_alone(self) -> bool:
        """Whether nothing is tried for now, of one server at least."""
        return self.commands.left_alone

    def stats(self) -> RedisStats:
        """Exact counters."""
        with self._lock:
            counts = dict(self._counts)
        return RedisStats(
            hits=self._hits,
            misses=self._misses,
            puts=counts.get("puts", 0),
            deletes=counts.get("deletes", 0),
            damaged=counts.get("damaged", 0),
            refused=counts.get("refused", 0),
            failures=self.commands.failures,
            failing=self.commands.failing,
            left_alone=self.left_alone,
        )

    # ---- inside ---------------------------------------------------------------------------------

    def _get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        if len(keys) == 1:  # as most calls are
            value = self.ask("get", self._name(keys[0]))
            return [None if value is None else self._read(keys[0], value)]
        names = [self._name(key) for key in keys]
        return [
            None if value is None else self._read(key, value)
            for key, value in zip(keys, self.commands.values(names), strict=True)
        ]

    def _name(self, key: bytes) -> bytes:
        return self._prefix + key.hex().encode()

    def _read(self, key: bytes, value: bytes) -> Record | None:
        """The record in a value, if it is whole, ours and this key's; else the value is removed."""
        try:
            # The one reads a small record in one call, the other leaves a large one where it is.
            believe = unpack_owned if len(value) < _ALONE_BYTES else unpack
            record = believe(value, mac_key=self._mac_key)
        except CorruptRecord:
            record = None
        # One that was copied under another key has a checksum that agrees, and is not the answer.
        if record is None or record.key != key or record.kind is Kind.TOMBSTONE:
            self._count(damaged=1)
            with suppress(TierUnavailable):  # who may not remove it may still read the others
                self.ask("unlink", self._name(key))
            return None
        return None if record.expired(self._clock() * 1e6) else record

    def _milliseconds_left(self, record: Record) -> int | None:
        if record.expires_us:
            return int(record.expires_us / 1e3 - self._clock() * 1e3)
        return None if self._ttl is None else int(self._ttl * 1e3)

    def _send(self, waiting: list[tuple[bytes, bytes, int | None]]) -> TierUnavailable | None:
        """Store what waits, in one round trip to each server, and empty the list. Returns why some
        servers of a cluster did not take theirs; raises it where there is one server."""
        if not waiting:
            return None
        left = {name: (value, px) for name, value, px in waiting}
        waiting.clear()

        def put(pipeline: Any, name: bytes) -> None:
            value, px = left[name]
            pipeline.set(name, value, px=px)

        try:
            with timed(self.took.put):
                if len(left) == 1:
                    ((name, (value, px)),) = left.items()
                    self.ask("set", name, value, px=px)
                else:
                    self.commands.spread(list(left), put)
        except TierUnavailable as error:
            if self.commands.one:
                raise
            return error
        return None

    def _count(self, **more: int) -> None:
        with self._lock:
            self._counts.update(more)
