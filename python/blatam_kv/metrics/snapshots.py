"""What is asked for at each scrape: the cache, the blocks of prompts and the backups at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blatam_kv.metrics.codecs import CodecWork
from blatam_kv.policy import PolicyReport

if TYPE_CHECKING:
    from prometheus_client.core import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSnapshot:
    """The cache at one moment, as the exporter needs it. evictions_by_policy: where the policy was
    changed, what left under each."""

    policy: str
    entries: int
    memory_bytes: int
    memory_limit_bytes: int
    evictions: Mapping[str, int]
    evictions_by_policy: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    pinned_bytes: int = 0
    hits: int = 0
    learned: PolicyReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksSnapshot:
    """The blocks of prompts at one moment. tokens_asked: of whole blocks that were looked up;
    tokens_found: how many of them were there, by tier. recomputed: blocks in Redis that were left to
    the model, which is quicker. codec: how they are encoded; raw_bytes: what those in memory would
    take without it; codec_work: what ``encode`` and ``decode`` had to do."""

    entries: int
    memory_bytes: int
    memory_limit_bytes: int
    disk_bytes: int
    tokens_asked: int
    tokens_found: Mapping[str, int]
    damaged: int
    recomputed: int = 0
    codec: str = "raw"
    raw_bytes: int = 0
    codec_work: Mapping[str, CodecWork] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupsSnapshot:
    """The backups that the service makes. last_timestamp: seconds since 1970 of the last whole one, 0
    before the first; last_seconds and last_bytes: what the last one took, of those since the start,
    as are made and failed."""

    last_timestamp: float
    last_seconds: float
    last_bytes: int
    made: int
    failed: int


def backed_up(backups: BackupsSnapshot) -> Iterator[Metric]:
    """The metrics of backups."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    name = "kv_cache_last_backup_timestamp_seconds"
    text = "When the last whole backup was made, 0 before the first."
    yield GaugeMetricFamily(name, text, value=backups.last_timestamp)
    name, text = "kv_cache_last_backup_duration_seconds", "What it took."
    yield GaugeMetricFamily(name, text, value=backups.last_seconds)
    yield GaugeMetricFamily("kv_cache_last_backup_bytes", "Its size.", value=backups.last_bytes)
    made = CounterMetricFamily("kv_cache_backups", "Backups tried.", labels=["outcome"])
    made.add_metric(["ok"], backups.made)
    made.add_metric(["error"], backups.failed)
    yield made
