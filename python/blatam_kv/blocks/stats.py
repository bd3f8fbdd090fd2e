"""A store's figures, gathered from where they are."""

from __future__ import annotations

from blatam_kv.blocks.below import Below
from blatam_kv.blocks.counts import Counts, KVStoreStats
from blatam_kv.blocks.events import News
from blatam_kv.blocks.residents import Residents


def stats_of(count: Counts, residents: Residents, below: Below, news: News) -> KVStoreStats:
    """All of them at one moment, but that others may work meanwhile."""
    memory = residents.stats()
    return KVStoreStats(
        policy=memory.policy,
        capacity_bytes=residents.capacity_bytes,
        blocks=memory.entries,
        bytes=memory.bytes,
        pinned=residents.pinned(),
        lookups=count["lookups"],
        tokens_asked=count["tokens_asked"],
        tokens_from_memory=count["tokens_from_memory"],
        tokens_from_tier=count["tokens_from_tier"],
        tokens_from_far=count["tokens_from_far"],
        recomputed=count["recomputed"],
        saved=count["saved"],
        evicted=memory.evicted,
        spilled=count["spilled"],
        promoted=count["promoted"],
        refused=count["refused"],
        damaged=count["damaged"],
        foreign=count["foreign"],
        tier_failures=below.failures,
        listener_failures=news.failures,
        queued_bytes=below.queued_bytes,
        holds=residents.holds(),
        tier=below.stats(),
        far=below.far.stats(),
    )
