"""Answers that several nodes share, through a Redis: written once, known to all.

Behind the memory of each node, and never in the way of a hit there. What one node wrote is a hit on
the others; of all nodes that miss the same answer at once one writes it and the others wait for it,
for as long as that node lives. Where Redis is away each node works for itself, as if alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from blatam_kv import tracing
from blatam_kv._core import framed_digest
from blatam_kv.bul.answers import CODEC, decode, encode
from blatam_kv.bul.drops import Drops
from blatam_kv.bul.pipeline import Answer
from blatam_kv.config import Settings
from blatam_kv.errors import TierUnavailable
from blatam_kv.record import Kind, Record
from blatam_kv.tiers.leases import Leases
from blatam_kv.tiers.notices import SETTLED_SECONDS, Notices
from blatam_kv.tiers.redis import RedisStats, RedisTier
from blatam_kv.tiers.took import Took

log = logging.getLogger("blatam_kv.bul")

_PERSON = b"blatamkv-share-1"
# OpenTelemetry's words for it.
_REDIS = {"db.system.name": "redis"}
_OVER, _DROPPED = "o", "d"
# How often who waits looks for itself, in case a notice was lost.
_LOOK_SECONDS = 0.5
# How long an answer that has no end of its own stays in Redis: a policy that evicts only what has one
# is to find them, and not the drops.
_LONGEST_SECONDS = 30 * 86400.0


class Shared:
    """The answers of all nodes. Safe from any thread; close it when done.

    tier: where they lie; closed with this. ttl: seconds from an answer's birth that it lives.
    cleared, dropped: called, by a thread of this object, when another node forgot everything, or the
    answer of a digest, also while this one was cut off; doubted: when nobody can say what was
    forgotten meanwhile. place: as of ``Drops``.
    lease_seconds: for how long a node holds up those that wait for its answer when its machine is gone;
    where only its process is, that is seen (``Leases``). settled_seconds: as of ``Notices``.
    """

    def __init__(
        self,
        tier: RedisTier,
        *,
        ttl: float | None,
        cleared: Callable[[], object] = lambda: None,
        dropped: Callable[[bytes], object] = lambda digest: None,
        doubted: Callable[[], object] = lambda: None,
        place: Path | None = None,
        lease_seconds: float = 5.0,
        settled_seconds: float = SETTLED_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tier = tier
        self._ttl = ttl
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[bytes, list[threading.Event]] = {}
        self._drops = Drops(
            tier, forget=dropped, clear=cleared, doubt=doubted, told=self._told, place=place
        )
        self._notices = Notices(
            tier,
            heard=self._hear,
            missed=self._drops.follow,
            idle=self._drops.catch_up,
            settled=settled_seconds,
        )
        self._leases = Leases(
            tier, seconds=lease_seconds, node=self._notices.node, gone=self._notices.gone
        )

    def fetch(self, asked: Sequence[tuple[bytes, bytes]]) -> list[Answer | None]:
        """The answers under some digests, each with the salt of its tenant, or None."""
        try:
            with tracing.span("GET", _REDIS, kind=tracing.Kind.CLIENT):
                records = self._tier.get_many([digest for digest, _ in asked])
        except TierUnavailable:
            return [None] * len(asked)  # counted by the tier
        return [
            None if record is None or self._drops.waits(digest) else self._read(record, salt)
            for record, (digest, salt) in zip(records, asked, strict=True)
        ]

    def keep(self, digest: bytes, salt: bytes, answer: Answer) -> None:
        """Let the other nodes have an answer."""
        ttl = self._ttl if answer.ttl is None else answer.ttl
        ends = 0 if ttl is None else int((answer.born + ttl) * 1e6)
        record = Record(
            digest,
            Kind.RESPONSE,
            encode(answer),
            tags=_tags_of(salt),
            codec=CODEC,
            created_us=int(answer.born * 1e6),
            expires_us=ends,
        )
        try:
            with tracing.span("SET", _REDIS, kind=tracing.Kind.CLIENT):
                self._tier.put_many([record])
        except TierUnavailable:
            return  # counted by the tier; the others write it themselves
        self._notices.tell(_OVER, digest)

    def once(
        self,
        digest: bytes,
        salt: bytes,
        compute: Callable[[], Answer],
        *,
        check: Callable[[], object] = lambda: None,
    ) -> tuple[Answer, bool]:
        """The answer, and whether this node computed it: one node at a time does.

        check: called now and then while another node computes; what it raises ends the waiting. What
        ``compute`` raises is this node's alone: the next one takes its turn.
        """
        while True:
            with self._expecting(digest) as over:
                (answer,) = self.fetch([(digest, salt)])
                if answer is not None:
                    return answer, False
                try:
                    mine = self._leases.take(digest)
                except TierUnavailable:
                    return compute(), True
                if mine:
                    return self._computed(digest, salt, compute)
                if self._leases.bury(digest):
                    log.warning("who was writing an answer is gone; one that waits writes it now")
                else:
                    over.wait(_LOOK_SECONDS)
            check()

    def forget(self, digest: bytes) -> bool:
        """Drop an answer, on every node; whether it was shared. Those that cannot be told now are told
        when Redis is there again."""
        try:
            (found,) = self._tier.contains_many([digest])
        except TierUnavailable:
            found = False
        self._tell(digest)
        return found

    def clear(self) -> None:
        """Forget everything, here and, through ``cleared``, on every node."""
        self._tell(None)

    def catch_up(self) -> None:
        """Follow what other nodes forgot before this one listened."""
        self._drops.follow()

    @property
    def dropped(self) -> int:
        """A number that has changed if anything was dropped, on whichever node, that this one knows of."""
        return self._drops.count

    @property
    def took(self) -> Took:
        """How long the tier takes."""
        return self._tier.took

    def listening(self) -> int | None:
        """How many nodes hear one another, this one included; None while Redis is away."""
        try:
            return self._tier.commands.listening(self._tier.channel)
        except TierUnavailable:
            return None

    def stats(self) -> RedisStats:
        """Of the tier."""
        return self._tier.stats()

    def close(self) -> None:
        """Let go of what is held."""
        self._leases.close()
        self._notices.close()
        self._tier.close()

    # ---- inside ---------------------------------------------------------------------------------

    def _computed(
        self, digest: bytes, salt: bytes, compute: Callable[[], Answer]
    ) -> tuple[Answer, bool]:
        """With the lease. Another node may have stored its answer just before it was ours."""
        try:
            (answer,) = self.fetch([(digest, salt)])
            if answer is not None:
                return answer, False
            answer = compute()
            self.keep(digest, salt, answer)
            return answer, True
        finally:
            self._leases.end(digest)
            self._notices.tell(_OVER, digest)

    def _read(self, record: Record, salt: bytes) -> Answer | None:
        if record.codec != CODEC or record.tags != _tags_of(salt):
            return None
        try:
            return decode(bytes(record.payload))
        except ValueError:
            return None

    @contextmanager
    def _expecting(self, digest: bytes) -> Iterator[threading.Event]:
        """For the body, an event that is set when a node is done with this answer."""
        over = threading.Event()
        with self._lock:
            self._waiting.setdefault(digest, []).append(over)
        try:
            yield over
        finally:
            with self._lock:
                self._waiting[digest].remove(over)
                if not self._waiting[digest]:
                    del self._waiting[digest]

    def _hear(self, kind: str, key: bytes) -> None:
        if kind == _OVER:
            with self._lock:
                waiting = list(self._waiting.get(key, ()))
            for over in waiting:
                over.set()
        elif kind == _DROPPED:
            self._drops.follow()

    def _tell(self, digest: bytes | None) -> None:
        if not self._drops.tell(digest):
            log.error("Redis is away: the other nodes will be told to forget when it is back")

    def _told(self) -> None:
        self._notices.tell(_DROPPED)


@lru_cache(maxsize=1024)
def _tags_of(salt: bytes) -> bytes:
    """What an answer's tags are: no tenant believes another's record, whatever its key says."""
    return framed_digest([CODEC.encode()], key=salt, person=_PERSON)


def open_redis(settings: Settings, *, mac_key: bytes) -> RedisTier | None:
    """The Redis that the settings name; None for none. Raises ConfigError, MissingExtra."""
    if settings.redis_url is None:
        return None
    ttl = _LONGEST_SECONDS if settings.cache_ttl is None else settings.cache_ttl
    return RedisTier(settings.redis_url.reveal(), ttl=ttl, mac_key=mac_key)
