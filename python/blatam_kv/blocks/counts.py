"""What a store counts."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from blatam_kv.tiers import DiskStats


@dataclass(frozen=True, slots=True)
class FarStats:
    """Of one process, at one moment. hits and misses are blocks that were fetched, or were not there
    any more; written those that were handed on, dropped those that were not: for lack of room on
    the way, or because the tier failed; failures its calls that failed; left_alone: whether nothing is
    tried for now. What was measured is None until it was."""

    hits: int
    misses: int
    written: int
    dropped: int
    failures: int
    failing: bool
    left_alone: bool
    queued_bytes: int
    trip_seconds: float | None
    bytes_per_second: float | None
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True)
class KVStoreStats:
    """A store's counters at one moment.

    blocks and bytes are what memory holds now, pinned the prefixes pinned in it. lookups counts
    calls of ``load_prefix``, tokens_asked the tokens of their whole blocks, and where those came
    from: tokens_from_memory, tokens_from_tier, and of the latter tokens_from_far: from the shared
    tier. recomputed counts blocks there that were left to the model, which is quicker. saved counts
    blocks that were encoded and stored somewhere, spilled those that went to the tier when memory was
    needed, promoted those that came back, evicted all that left memory for lack of room, refused those for which pins left none.
    damaged counts blocks that failed verification and were thrown away, foreign records under one
    of our names that were not ours, tier_failures calls that the tier could not serve,
    listener_failures what listeners raised. queued_bytes are on their way to the tier, holds the forks
    that were not released. tier is what the disk tier says of itself, far the shared one.
    """

    policy: str
    capacity_bytes: int
    blocks: int
    bytes: int
    pinned: int
    lookups: int
    tokens_asked: int
    tokens_from_memory: int
    tokens_from_tier: int
    tokens_from_far: int
    recomputed: int
    saved: int
    evicted: int
    spilled: int
    promoted: int
    refused: int
    damaged: int
    foreign: int
    tier_failures: int
    listener_failures: int
    queued_bytes: int
    holds: int
    tier: DiskStats | None
    far: FarStats | None

    @property
    def hit_ratio(self) -> float:
        """Tokens found per token asked for, 0.0 before the first."""
        found = self.tokens_from_memory + self.tokens_from_tier
        return found / self.tokens_asked if self.tokens_asked else 0.0


class Counts:
    """Counters by name. Safe from any thread. whole: counters of which these are a part."""

    def __init__(self, whole: Counts | None = None) -> None:
        self._whole = whole
        self._counter: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, **more: int) -> None:
        """Count so many more of each."""
        with self._lock:
            self._counter.update(more)
        if self._whole is not None:
            self._whole.add(**more)

    def __getitem__(self, name: str) -> int:
        return self._counter[name]
