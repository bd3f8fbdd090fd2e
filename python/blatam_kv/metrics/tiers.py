"""What is told of the places where entries lie: one set of names for memory, disk and Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blatam_kv.metrics.device_memory import DeviceMemorySnapshot, of_device_memory
from blatam_kv.metrics.histograms import Buckets, Histogram

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# From a small record in the page cache to a disk that is about to fail.
SECONDS = (0.00005, 0.00025, 0.001, 0.005, 0.025, 0.1, 1.0)
# How long calls take: name, text, bounds and labels of that histogram.
TIMES = (
    "kv_tier_operation_duration_seconds",
    "Time of a call, of one entry or of many.",
    SECONDS,
    ("store", "tier", "operation"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSnapshot:
    """One place at one moment.

    store: what lies there, ``answers`` or ``blocks``. tier: ``memory``, ``disk``, ``redis``, or a
    device: ``cuda:0``, ``host`` for one that is the host.
    limit_bytes: most bytes it may take, None where others share it. lookups: by ``hit`` and ``miss``.
    damaged: records that failed verification. failures: calls that it did not serve, by reason.
    failing: whether the last one was such. left_alone: whether nothing is tried for a while, None
    where everything always is. took: calls by operation, of a place that is not memory. device: what
    else is told of a device's memory.
    """

    store: str
    tier: str
    entries: int | None = None
    bytes: int | None = None
    limit_bytes: int | None = None
    lookups: Mapping[str, int] = field(default_factory=dict)
    evicted: int = 0
    damaged: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    failing: bool = False
    left_alone: bool | None = None
    took: Mapping[str, Buckets] = field(default_factory=dict)
    device: DeviceMemorySnapshot | None = None


def families(tiers: Iterable[TierSnapshot]) -> Iterator[Metric]:
    """The metrics of some places, as Prometheus's library takes them."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    where = ["store", "tier"]
    entries = GaugeMetricFamily("kv_tier_entries", "Entries that lie there.", labels=where)
    size = GaugeMetricFamily("kv_cache_size_bytes", "Bytes that lie there.", labels=where)
    limit = GaugeMetricFamily("kv_cache_size_limit_bytes", "Bytes that may.", labels=where)
    failing = GaugeMetricFamily(
        "kv_tier_failing", "1 while what was last asked of it failed.", labels=where
    )
    alone = GaugeMetricFamily(
        "kv_tier_circuit_open", "1 while it is left alone after failures.", labels=where
    )
    lookups = CounterMetricFamily(
        "kv_tier_requests", "Entries looked for there.", labels=[*where, "result"]
    )
    evicted = CounterMetricFamily(
        "kv_tier_evictions", "Entries that left for lack of room.", labels=where
    )
    damaged = CounterMetricFamily(
        "kv_tier_damaged", "Records that failed verification.", labels=where
    )
    failures = CounterMetricFamily(
        "kv_tier_failures", "Calls that it did not serve.", labels=[*where, "reason"]
    )
    devices = []
    for tier in tiers:
        place = [tier.store, tier.tier]
        if tier.device is not None:
            devices.append((place, tier.device))
        for gauge, value in (
            (entries, tier.entries),
            (size, tier.bytes),
            (limit, tier.limit_bytes),
        ):
            if value is not None:
                gauge.add_metric(place, value)
        failing.add_metric(place, float(tier.failing))
        if tier.left_alone is not None:
            alone.add_metric(place, float(tier.left_alone))
        evicted.add_metric(place, tier.evicted)
        damaged.add_metric(place, tier.damaged)
        for result, count in sorted(tier.lookups.items()):
            lookups.add_metric([*place, result], count)
        for reason, count in sorted(tier.failures.items()):
            failures.add_metric([*place, reason], count)
    yield from (entries, size, limit, failing, alone, lookups, evicted, damaged, failures)
    if devices:
        yield from of_device_memory(devices)


class TierMetrics:
    """A collector of Prometheus's library, for who uses tiers without the service: an engine
    registers ``TierMetrics(lambda: [tier.snapshot()])`` in the registry that it shows already.

    tiers: asked at each scrape. Safe from any thread.
    """

    def __init__(self, tiers: Callable[[], Iterable[TierSnapshot]]) -> None:
        self._tiers = tiers

    def collect(self) -> Iterator[Metric]:
        """Every metric of them."""
        times = Histogram(*TIMES)
        tiers = list(self._tiers())
        for tier in tiers:
            for operation, took in tier.took.items():
                times.show((tier.store, tier.tier, operation), took)
        yield from families(tiers)
        yield times.family()
