"""What administrators change of the answers' cache while it serves: what is pinned, and which policy
decides what leaves. Of this node; other nodes have caches of their own.

A pin outlives a restart where answers do. A policy does not: what the settings say holds at each start,
so that a machine that is set up again behaves as its settings say.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from blatam_kv.bul.pipeline import Answer, Pipeline
from blatam_kv.bul.tasks import UnknownDocument, Written
from blatam_kv.cache import CacheStats
from blatam_kv.config import STRATEGIES, did_you_mean
from blatam_kv.errors import Error, InvalidRequest

log = logging.getLogger("blatam_kv.bul")

MOST_PINS = 1000
# What is pinned may take so much of the cache: the rest must go on to serve everybody else.
MOST_SHARE = 0.5


class CannotPin(Error):
    """The answer is not in memory, or too much is pinned already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What is pinned. mine: answers of the tenant that asks, the newest first. pinned, bytes: of all
    tenants; limit_bytes: what these may be."""

    mine: tuple[Answer, ...]
    pinned: int
    bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of policy. seconds: how long it took, while others waited."""

    policy: str
    before: str
    seconds: float


class Steering:
    """The levers. Safe from any thread; what asks for documents waits for the database.

    pipeline: its cache is bounded in bytes. written: a tenant's document by its id, UnknownDocument if
    there is none. configured: the policy of the settings.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        written: Callable[..., Written],
        configured: str,
    ) -> None:
        self._cache, self._shelf = pipeline.cache, pipeline.shelf
        self._written = written
        self.configured = configured
        self._limit_bytes = int(MOST_SHARE * (self._cache.stats().capacity_bytes or 0))
        self._lock = threading.Lock()  # one change at a time
        self._owned: dict[
            tuple[str, str], bool
        ] = {}  # by tenant and document, as the database said
        # Evictions by policy and reason, of policies before this one; what they come to in all.
        self._before: dict[str, Counter[str]] = {}
        self._before_all: Counter[str] = Counter()

    # ---- pins -----------------------------------------------------------------------------------

    def pins(self, *, tenant: str) -> Pins:
        """What is pinned now. Raises StorageUnavailable."""
        answers = self._pinned().values()
        mine = [answer for answer in answers if self._is_of(tenant, answer.id)]
        mine.sort(key=lambda answer: (-answer.born, answer.id))
        now = self._cache.stats()
        return Pins(
            mine=tuple(mine),
            pinned=now.pinned,
            bytes=now.pinned_bytes,
            limit_bytes=self._limit_bytes,
        )

    def pin(self, document_id: str, *, tenant: str) -> Answer:
        """Keep the answer behind a tenant's document in memory until unpinned, deleted, or at the end
        of its time to live. Raises UnknownDocument, CannotPin, StorageUnavailable."""
        if not self._is_of(tenant, document_id):
            raise UnknownDocument(document_id)
        with self._lock:
            pinned = self._pinned()
            for answer in pinned.values():
                if answer.id == document_id:
                    return answer
            digest, answer = self._find(document_id)
            now = self._cache.stats()
            if len(pinned) >= MOST_PINS or now.pinned_bytes + answer.size_bytes > self._limit_bytes:
                raise CannotPin(
                    f"{now.pinned:,} answers with {now.pinned_bytes:,} bytes are pinned, and there may "
                    f"be {MOST_PINS:,} with {self._limit_bytes:,}; unpin one"
                )
            keeper = self._cache if self._shelf is None else self._shelf
            if not keeper.pin(digest):
                raise _gone(document_id)
        return answer

    def unpin(self, document_id: str, *, tenant: str) -> bool:
        """Let go of it; False if it was not pinned. Raises StorageUnavailable."""
        with self._lock:
            for digest, answer in self._pinned().items():
                if answer.id == document_id and self._is_of(tenant, document_id):
                    keeper = self._cache if self._shelf is None else self._shelf
                    return keeper.unpin(digest)
        return False

    def _pinned(self) -> dict[bytes, Answer]:
        found = {digest: self._cache.peek(digest) for digest in self._cache.pinned()}
        return {digest: answer for digest, answer in found.items() if answer is not None}

    def _find(self, document_id: str) -> tuple[bytes, Answer]:
        for digest, answer in self._cache.items():
            if answer.id == document_id:
                return digest, answer
        raise _gone(document_id)

    def _is_of(self, tenant: str, document_id: str) -> bool:
        known = self._owned.get((tenant, document_id))
        if known is not None:
            return known
        try:
            self._written(document_id, tenant=tenant)
        except UnknownDocument:
            return False
        if len(self._owned) >= 4 * MOST_PINS:
            self._owned.clear()
        self._owned[tenant, document_id] = True
        return True

    # ---- policy ---------------------------------------------------------------------------------

    @property
    def policy(self) -> str:
        """The one that decides now."""
        return self._cache.stats().policy

    def change_policy(self, policy: str) -> Change:
        """Let another policy decide what leaves; nothing leaves for that. Raises InvalidRequest."""
        if policy not in STRATEGIES:
            known = f"must be one of {', '.join(STRATEGIES)}"
            raise InvalidRequest(known + did_you_mean(policy, STRATEGIES), field="policy")
        with self._lock:
            now = self._cache.stats()
            if now.policy == policy:
                return Change(policy=policy, before=policy, seconds=0.0)
            began = time.perf_counter()
            self._cache.change_policy(policy)
            seconds = time.perf_counter() - began
            # What left since `now` was read counts for the new one: nobody can tell them apart.
            since = Counter(now.evictions) - self._before_all
            self._before.setdefault(now.policy, Counter()).update(since)
            self._before_all = Counter(now.evictions)
        log.warning("the cache follows %s, no longer %s", policy, now.policy)
        return Change(policy=policy, before=now.policy, seconds=seconds)

    def evictions(self, stats: CacheStats) -> Mapping[str, Mapping[str, int]]:
        """What left under each policy, by reason. stats: of the cache now."""
        with self._lock:
            found = {policy: dict(counts) for policy, counts in self._before.items()}
            mine = found.setdefault(stats.policy, {})
            for reason, count in stats.evictions.items():
                mine[reason] = mine.get(reason, 0) + max(0, count - self._before_all[reason])
        return found


def _gone(document_id: str) -> CannotPin:
    return CannotPin(
        f"the answer of document {document_id[:64]} is not in this node's memory; ask for it again "
        "(POST /query), then pin it"
    )
