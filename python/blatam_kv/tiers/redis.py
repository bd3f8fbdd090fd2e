"""Records in a Redis or Valkey that several nodes share.

One value a record, its bytes as in docs/FORMAT.md under ``NAMESPACE:1:KEY`` (the format's version, the
key in hexadecimal), so that records are independent and Redis Cluster works unchanged. What comes
back is verified before it is believed: whoever can write to the server could otherwise put words
into everybody's mouth, and with a ``mac_key`` cannot even with a checksum that agrees.

A cache must never wait for a server that is away. Timeouts are short, nothing is retried but a kept
connection that the server had closed, and after three failures in a row nothing is tried for a
while (``breaker``).
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from blatam_kv.errors import (
    ConfigError,
    CorruptRecord,
    MissingExtra,
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

if TYPE_CHECKING:
    from types import ModuleType

T = TypeVar("T")

_SCHEMES = ("redis", "rediss", "unix")
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}(:[a-z]{1,32})?")
# Keys of one round trip. Larger batches gain nothing and hold up the server's other clients.
_BATCH = 64
# The same of calls that bring nothing.
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
    own tools read them; options behind ``?`` are those of redis-py, ``ssl_ca_certs=…`` for example.
    namespace: what all keys begin with, 1 to 64 of ``A-Z a-z 0-9 . _ -`` and, for a part of its own,
    a colon and a word; nodes that share records use the same. ttl: seconds that a record without an end of its own stays, None for ever. timeout:
    seconds for a connection and for an answer. mac_key: 16 to 64 bytes; records are signed with it,
    and those that are not are misses. record_bytes: larger records are refused. clock: seconds since
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
        self.place = _place(url)
        self.namespace = namespace
        self.channel = f"{namespace}:notices".encode()  # where nodes tell one another
        self._ttl, self._timeout = ttl, timeout
        self._mac_key = None if mac_key is None else checked_mac_key(mac_key)
        self._record_bytes = record_bytes
        self._breaker = breaker or Breaker()
        self._clock = clock
        self._prefix = f"{namespace}:{VERSION}:".encode()
        self._lock = Lock()
        self._hits = self._misses = 0
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._failing: Unavailable | None = None
        self._closed = False
        self._redis, self._client = _client(url, timeout)

    # ---- the protocol ---------------------------------------------------------------------------

    def get_many(self, keys: Sequence[bytes]) -> list[Record | None]:
        """The record of each key, verified, or None. Raises TierUnavailable."""
        if len(keys) == 1:  # as most calls are
            value = self.ask("get", self._name(keys[0]))
            found = [None if value is None else self._read(keys[0], value)]
        else:
            found = []
            for batch in _batches(keys):
                values = self.ask("mget", [self._name(key) for key in batch])
                found += [
                    None if value is None else self._read(key, value)
                    for key, value in zip(batch, values, strict=True)
                ]
        misses = found.count(None)
        with self._lock:
            self._hits += len(found) - misses
            self._misses += misses
        return found

    def put_many(self, records: Iterable[Record], *, durable: bool = False) -> int:
        """Store records in order; returns how many. Raises TierUnavailable.

        durable: accepted; whether Redis writes to a disk is for its own configuration to say.
        """
        stored = 0
        waiting: list[tuple[bytes, bytes, int | None]] = []
        for record in records:
            if record.kind is Kind.TOMBSTONE:
                raise ConfigError("a tombstone cannot be put; use delete_many")
            check(record)
            left = self._milliseconds_left(record)
            if left is not None and left <= 0:
                self._send(waiting)
                self.ask("unlink", self._name(record.key))
                continue
            size = packed_bytes(record, has_mac=self._mac_key is not None)
            if size > self._record_bytes:
                self._count(refused=1)
                self._send(waiting)
                self.ask("unlink", self._name(record.key))
                continue
            value = b"".join(pack(record, mac_key=self._mac_key))
            waiting.append((self._name(record.key), value, left))
            stored += 1
            if size > _ALONE_BYTES or len(waiting) == _BATCH:
                self._send(waiting)
        self._send(waiting)
        self._count(puts=stored)
        return stored

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """Forget keys; returns how many were known. Raises TierUnavailable."""
        known = 0
        for batch in _batches(keys):
            names = [self._name(key) for key in batch]
            known += self.ask("unlink", *names)
        self._count(deletes=known)
        return known

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether each key is known. Raises TierUnavailable."""
        found: list[bool] = []
        for batch in _batches(keys):
            found += map(
                bool, self._together([("exists", (self._name(key),), {}) for key in batch])
            )
        return found

    def sizes_many(self, keys: Sequence[bytes]) -> list[int]:
        """Bytes of each key's record, 0 where there is none. Raises TierUnavailable."""
        found: list[int] = []
        for batch in _batches(keys, _SIZES):
            found += self._together([("strlen", (self._name(key),), {}) for key in batch])
        return found

    def close(self) -> None:
        """Let go of the connections."""
        self._closed = True
        self._client.close()

    # ---- beyond it ------------------------------------------------------------------------------

    def clear(self) -> int:
        """Forget every record of the namespace; returns how many. Raises TierUnavailable."""
        return self.delete_tagged(None)

    def delete_tagged(self, tags: bytes | None) -> int:
        """Forget every record of the namespace, or every one with these tags; returns how many. Looks
        at all of them. Raises TierUnavailable."""
        cursor, known = 0, 0
        while True:
            cursor, names = self.ask("scan", cursor, self._prefix + b"*", count=500)
            if tags is not None:
                first, last = TAGS_AT.start, TAGS_AT.stop - 1
                found = self._together([("getrange", (name, first, last), {}) for name in names])
                names = [name for name, its in zip(names, found, strict=True) if its == tags]
            if names:
                known += self.ask("unlink", *names)
            if cursor == 0:
                self._count(deletes=known)
                return known

    def ask(self, command: str, *arguments: Any, **options: Any) -> Any:
        """What redis-py's client answers to a command. Raises TierUnavailable, at once where the
        server is being left alone.

        Any: redis-py types its answers for every protocol and for coroutines at once.
        """
        return self.attempt(partial(getattr(self._client, command), *arguments, **options))

    def attempt(self, call: Callable[[], T]) -> T:
        """What a call that talks to the server returns; raises as ``ask``."""
        if self._closed:
            raise TierUnavailable(Unavailable.CLOSED, "the Redis tier is closed")
        if not self._breaker.allows():
            raise TierUnavailable(
                self._failing or Unavailable.UNREACHABLE, f"{self.place} is left alone for a while"
            )
        try:
            answer = call()
        # The cause may hold the URL with its password. OSError: TLS files that are not there.
        except (self._redis.exceptions.RedisError, OSError) as error:
            raise self._failed(error) from None
        self._breaker.succeeded()
        self._failing = None
        return answer

    def found(self) -> None:
        """Somebody has just seen that the server is there: ask it again, whatever was."""
        self._breaker.succeeded()

    def script(self, text: str) -> Any:
        """A Lua script, sent once and called by its digest: ``script(keys=…, args=…)``."""
        return self._client.register_script(text)

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What a subscription may raise."""
        return (self._redis.exceptions.RedisError, OSError, ValueError)

    def listen(self) -> Any:
        """A subscription of redis-py, on a connection of its own."""
        return self._client.pubsub()

    def stats(self) -> RedisStats:
        """Exact counters."""
        with self._lock:
            counts, failures = dict(self._counts), dict(self._failures)
        return RedisStats(
            hits=self._hits,
            misses=self._misses,
            puts=counts.get("puts", 0),
            deletes=counts.get("deletes", 0),
            damaged=counts.get("damaged", 0),
            refused=counts.get("refused", 0),
            failures=failures,
            failing=self._failing,
            left_alone=self._breaker.open,
        )

    # ---- inside ---------------------------------------------------------------------------------

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

    def _send(self, waiting: list[tuple[bytes, bytes, int | None]]) -> None:
        """Store what waits, in one round trip, and empty the list."""
        if len(waiting) == 1:
            name, value, left = waiting[0]
            self.ask("set", name, value, px=left)
        elif waiting:
            self._together([("set", (name, value), {"px": left}) for name, value, left in waiting])
        waiting.clear()

    def _together(self, commands: Sequence[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> Any:
        """The answers to some commands, in one round trip."""

        def call() -> Any:
            pipeline = self._client.pipeline(transaction=False)
            for command, arguments, options in commands:
                getattr(pipeline, command)(*arguments, **options)
            return pipeline.execute()

        return self.attempt(call)

    def _failed(self, error: Exception) -> TierUnavailable:
        reason = _reason(error, self._redis)
        # A server that says no is there: only silence is worth leaving it alone.
        if reason in (Unavailable.UNREACHABLE, Unavailable.TIMED_OUT):
            self._breaker.failed()
        else:
            self._breaker.succeeded()
        with self._lock:
            self._failures[reason] += 1
            self._failing = reason
        return TierUnavailable(reason, f"{self.place}: {reason} ({type(error).__name__})")

    def _count(self, **more: int) -> None:
        with self._lock:
            self._counts.update(more)


def _batches(keys: Sequence[bytes], size: int = _BATCH) -> Iterator[Sequence[bytes]]:
    rest = iter(keys)
    while batch := list(islice(rest, size)):
        yield batch


def _place(url: str) -> str:
    """Where a URL leads, without what it says of users and passwords. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme not in _SCHEMES or not (host or (parts.scheme == "unix" and parts.path)):
        raise ConfigError(
            "the URL of Redis must look like redis://user:password@host:6379/0, rediss://… for TLS, "
            "or unix:///path/to/socket"
        )
    return f"unix://{parts.path}" if parts.scheme == "unix" else f"redis at {host}:{port or 6379}"


def _client(url: str, timeout: float) -> tuple[ModuleType, Any]:
    """redis-py and a client of it; as yet without a connection."""
    try:
        import redis
    except ImportError as error:
        raise MissingExtra("redis", extra="redis") from error
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        client = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # One more try where a kept connection was closed; redis-py's default waits for seconds.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.exceptions.ConnectionError,)),
            retry_on_timeout=False,
            protocol=2,
        )
    except (ValueError, TypeError) as error:
        raise ConfigError("an option of the Redis URL cannot be right") from error
    return redis, client


def _reason(error: Exception, redis: ModuleType) -> Unavailable:
    exceptions = redis.exceptions
    for kind, reason in (
        (exceptions.TimeoutError, Unavailable.TIMED_OUT),
        (exceptions.OutOfMemoryError, Unavailable.NO_SPACE),
        (exceptions.ReadOnlyError, Unavailable.READ_ONLY),
        (exceptions.AuthenticationError, Unavailable.REFUSED),
        (exceptions.ResponseError, Unavailable.REFUSED),
    ):
        if isinstance(error, kind):
            return reason
    return Unavailable.UNREACHABLE
