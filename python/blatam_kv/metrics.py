"""What the service counts and times, and how Prometheus reads it.

``LatencyHistogram`` answers "what is P99?" inside the process, for ``stats`` and the demo.
``ServiceMetrics`` is one service's Prometheus registry under the canonical names; hit rates and
quantiles over time are computed in PromQL, never exported as gauges.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blatam_kv.device_metrics import of_gpus
from blatam_kv.devices.reading import DeviceSnapshot
from blatam_kv.errors import MissingExtra
from blatam_kv.histograms import Buckets, Histogram
from blatam_kv.policy import PolicyReport
from blatam_kv.policy_metrics import learned
from blatam_kv.tier_metrics import TierSnapshot, families

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Clock = Callable[[], float]


class LatencyHistogram:
    """Counts of durations in logarithmic buckets: 600 integers, whatever is recorded.

    A quantile is at most 4.5 % above the true one (16 buckets for each doubling, from 0.1 µs).
    Safe from any thread.
    """

    _FLOOR = 1e-7
    _PER_DOUBLING = 16

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * 600
        self._count = 0
        self._sum = 0.0
        self._max = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration; a negative one counts as zero."""
        seconds = max(seconds, 0.0)
        steps = self._PER_DOUBLING * math.log2(max(seconds, self._FLOOR) / self._FLOOR)
        bucket = min(int(steps), len(self._counts) - 1)
        with self._lock:
            self._counts[bucket] += 1
            self._count += 1
            self._sum += seconds
            self._max = max(self._max, seconds)

    def add(self, other: LatencyHistogram) -> None:
        """Count what another has counted as well."""
        with other._lock:
            counts, count, total, most = (other._counts[:], other._count, other._sum, other._max)
        with self._lock:
            self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)]
            self._count += count
            self._sum += total
            self._max = max(self._max, most)

    @property
    def count(self) -> int:
        return self._count

    @property
    def sum(self) -> float:
        return self._sum

    @property
    def mean(self) -> float:
        """Seconds; 0 when nothing was recorded."""
        with self._lock:
            return self._sum / self._count if self._count else 0.0

    def quantile(self, q: float) -> float:
        """The duration that a share ``q`` in (0, 1] of the records does not exceed; 0 if none."""
        if not 0.0 < q <= 1.0:
            raise ValueError(f"q must be above 0 and at most 1, not {q}")
        with self._lock:
            rank = math.ceil(q * self._count)
            seen = 0
            for bucket, count in enumerate(self._counts):
                seen += count
                if count and seen >= rank:
                    upper = self._FLOOR * math.exp2((bucket + 1) / self._PER_DOUBLING)
                    return min(upper, self._max)
        return 0.0


class RecentRate:
    """Events per second over the last minute. Safe from any thread."""

    _SECONDS = 60

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._slots: dict[int, int] = {}

    def record(self) -> None:
        """Count one event now."""
        second = int(self._clock())
        with self._lock:
            self._slots[second] = self._slots.get(second, 0) + 1
            while len(self._slots) > self._SECONDS:
                del self._slots[next(iter(self._slots))]

    def add(self, other: RecentRate) -> None:
        """Count what another has counted as well, from when the earlier of the two began."""
        with other._lock:
            slots = dict(other._slots)
        with self._lock:
            self._start = min(self._start, other._start)
            for second in self._slots:
                slots[second] = slots.get(second, 0) + self._slots[second]
            self._slots = {second: slots[second] for second in sorted(slots)[-self._SECONDS :]}

    @property
    def per_second(self) -> float:
        now = self._clock()
        oldest = int(now) - self._SECONDS
        with self._lock:
            events = sum(count for second, count in self._slots.items() if second > oldest)
        return events / max(1.0, min(float(self._SECONDS), now - self._start))


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSnapshot:
    """The cache at one moment, as the exporter needs it."""

    policy: str
    entries: int
    memory_bytes: int
    memory_limit_bytes: int
    evictions: Mapping[str, int]
    hits: int = 0
    learned: PolicyReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksSnapshot:
    """The blocks of prompts at one moment. tokens_asked: of whole blocks that were looked up;
    tokens_found: how many of them were there, by tier. codec: how they are encoded; raw_bytes: what
    those in memory would take without it."""

    entries: int
    memory_bytes: int
    memory_limit_bytes: int
    disk_bytes: int
    tokens_asked: int
    tokens_found: Mapping[str, int]
    damaged: int
    codec: str = "raw"
    raw_bytes: int = 0


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


_CACHE_BUCKETS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_WAIT_BUCKETS = (
    0.001,
    0.01,
    0.1,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    900.0,
    3600.0,
)
# A stage takes microseconds or, where it is the model's, seconds.
_STAGE_BUCKETS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.001, 0.005, 0.025),
    *(0.1, 0.5, 1.0, 2.5, 10.0),
)
# OpenTelemetry's buckets without every third, and finer ones below: a hit takes less than their first.
_HTTP_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


# Of an exchange that got no series of its own, the class of its status is what is left.
_MOST_EXCHANGES = 16
_ERRORS = ("internal", "model", "storage", "timeout")


class ServiceMetrics:
    """The Prometheus registry of one service. Safe from any thread; needs the extra ``server``.

    cache, queue_depth, unsaved, blocks, tiers and backups are asked at each scrape, so a gauge can never
    be stale; blocks answers None where no prompts are kept, backups where none are made. No label holds
    anything a caller chooses: the number of series is bounded by the code, to less than a thousand lines.
    """

    def __init__(
        self,
        *,
        version: str,
        cache: Callable[[], CacheSnapshot],
        queue_depth: Callable[[], Mapping[int, int]],
        unsaved: Callable[[], int] = lambda: 0,
        blocks: Callable[[], BlocksSnapshot | None] = lambda: None,
        devices: Callable[[], Sequence[DeviceSnapshot]] = tuple,
        tiers: Callable[[], Iterable[TierSnapshot]] = lambda: (),
        backups: Callable[[], BackupsSnapshot | None] = lambda: None,
    ) -> None:
        try:
            import prometheus_client as prom
        except ImportError as error:
            raise MissingExtra("prometheus-client", extra="server") from error
        # Two more series per counter that no dashboard reads; the library's switch is global.
        prom.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._cache = cache
        self._blocks = blocks
        self._devices = devices
        self._backups = backups
        self._queue_depth = queue_depth
        self._unsaved = unsaved
        self._tiers = tiers
        self.registry = registry = prom.CollectorRegistry()
        prom.ProcessCollector(registry=registry)
        self._requests = prom.Counter(
            "kv_cache_requests",
            "Requests by what the cache knew and by the tier that answered.",
            ["status", "tier"],
            registry=registry,
        )
        # Counters begin at zero: the first increase is then one.
        self._request_children = {
            (status, tier): self._requests.labels(status, tier)
            for status, tier in (("hit", "memory"), ("miss", "none"), ("collapsed", "none"))
        }
        errors = prom.Counter(
            "kv_cache_errors", "What went wrong, by its kind.", ["error_type"], registry=registry
        )
        self._errors = {kind: errors.labels(kind) for kind in _ERRORS}
        latency = Histogram(
            "kv_cache_latency_seconds",
            "Time from a valid request to its answer, cached or computed.",
            _CACHE_BUCKETS,
        )
        self._latency = latency.of()
        self._stages = Histogram(
            "bul_stage_duration_seconds",
            "Time spent in one stage of the pipeline.",
            _STAGE_BUCKETS,
            ["stage"],
        )
        self._rejected = prom.Counter(
            "bul_rejected",
            "Requests refused, by stage and reason.",
            ["stage", "reason"],
            registry=registry,
        )
        self._waits = Histogram(
            "bul_queue_wait_seconds",
            "Time from a request to the first try at writing, by the priority asked for.",
            _WAIT_BUCKETS,
            ["priority"],
        )
        self._retries = prom.Counter(
            "bul_retries", "Answers that failed and are tried again.", registry=registry
        )
        self._storage_errors = prom.Counter(
            "bul_storage_errors",
            "Database failures by what was to be done.",
            ["operation"],
            registry=registry,
        )
        for operation in ("add", "adopt", "save", "read", "retain"):
            self._storage_errors.labels(operation)
        self._callbacks = prom.Counter(
            "bul_callbacks", "Tries to deliver a callback.", ["outcome"], registry=registry
        )
        self._documents = prom.Counter(
            "bul_documents",
            "Documents rendered or failed, by format.",
            ["format", "outcome"],
            registry=registry,
        )
        self._http = Histogram(
            "http_server_request_duration_seconds",
            "Time from the request's first byte to the answer's last.",
            _HTTP_BUCKETS,
            ["http_request_method", "http_route", "http_response_status_code"],
        )
        self._http_children: dict[tuple[str, str, int], Buckets] = {}
        self._histograms = (latency, self._stages, self._waits, self._http)
        build = prom.Gauge("bul_build_info", "Always 1.", ["version"], registry=registry)
        build.labels(version).set(1)
        registry.register(self)

    def cache_request(self, status: str, *, tier: str) -> None:
        """Count one request: status is hit, miss or collapsed; tier is memory or none."""
        child = self._request_children.get((status, tier))
        if child is None:
            child = self._requests.labels(status, tier)
            self._request_children[status, tier] = child
        child.inc()

    def answered(self, seconds: float) -> None:
        """Time one request from its arrival to its answer."""
        self._latency.observe(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body of a ``with``, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_took(name, time.perf_counter() - start)

    def stage_took(self, name: str, seconds: float) -> None:
        """Record a stage that was timed elsewhere."""
        self._stages.of(name).observe(seconds)

    def rejected(self, stage: str, reason: str) -> None:
        """Count one request that a stage refused."""
        self._rejected.labels(stage, reason).inc()

    def failed(self, kind: str) -> None:
        """Count one error: kind is model, timeout, storage or internal."""
        self._errors[kind].inc()

    def waited(self, priority: int, seconds: float) -> None:
        """Time the wait of one answer for a writer."""
        self._waits.of(str(int(priority))).observe(seconds)

    def retried(self) -> None:
        """Count one answer that failed and is tried again."""
        self._retries.inc()

    def storage_failed(self, operation: str) -> None:
        """Count one failure of the database: operation is add, save, read or retain."""
        self._storage_errors.labels(operation).inc()
        self.failed("storage")

    def called_back(self, outcome: str) -> None:
        """Count one try: delivered, failed or given_up."""
        self._callbacks.labels(outcome).inc()

    def document(self, format: str, *, ok: bool) -> None:
        """Count one document."""
        self._documents.labels(format, "ok" if ok else "error").inc()

    def http(self, method: str, route: str, status: int, seconds: float) -> None:
        """Time one HTTP exchange; ``route`` is the template, never the path.

        Each kind of exchange has a series of its own, up to a number; those that come later share
        one for each class of status, so that nobody can make a scrape large.
        """
        child = self._http_children.get((method, route, status))
        if child is None:
            known = len(set(self._http_children.values()))
            names = (method, route, str(status))
            if known >= _MOST_EXCHANGES:
                names = ("_OTHER", "_OTHER", f"{status // 100}xx")
            child = self._http.of(*names)
            self._http_children[method, route, status] = child
        child.observe(seconds)
        if status == 500:
            self.failed("internal")

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape: the gauges and counters that live elsewhere."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield from map(_family, self._histograms)
        now = self._cache()
        for name, text, value in (
            ("kv_cache_entries", "Answers held.", now.entries),
            ("kv_cache_memory_usage_bytes", "Bytes of the answers held.", now.memory_bytes),
            ("kv_cache_memory_limit_bytes", "Bytes it may hold.", now.memory_limit_bytes),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        evictions = CounterMetricFamily(
            "kv_cache_evictions", "Answers that left, by reason.", labels=["policy", "reason"]
        )
        for reason, count in sorted(now.evictions.items()):
            evictions.add_metric([now.policy, reason], count)
        yield evictions
        if now.learned is not None:
            yield from learned(now.learned, hits=now.hits)
        if (blocks := self._blocks()) is not None:
            for name, text, value in (
                ("kv_blocks_entries", "Blocks of prompts in memory.", blocks.entries),
                ("kv_blocks_memory_usage_bytes", "Bytes of them.", blocks.memory_bytes),
                ("kv_blocks_memory_limit_bytes", "Bytes they may have.", blocks.memory_limit_bytes),
                ("kv_blocks_disk_usage_bytes", "Bytes of blocks on disk.", blocks.disk_bytes),
            ):
                yield GaugeMetricFamily(name, text, value=value)
            yield CounterMetricFamily(
                "kv_blocks_tokens_asked", "Prompt tokens looked up.", value=blocks.tokens_asked
            )
            found = CounterMetricFamily(
                "kv_blocks_tokens_found", "Prompt tokens not computed again.", labels=["tier"]
            )
            for tier, count in sorted(blocks.tokens_found.items()):
                found.add_metric([tier], count)
            yield found
            yield CounterMetricFamily(
                "kv_blocks_damaged", "Blocks that failed verification.", value=blocks.damaged
            )
            ratio = GaugeMetricFamily(
                "kv_cache_compression_ratio",
                "Bytes of keys and values for each byte that holds them.",
                labels=["codec"],
            )
            if blocks.memory_bytes:
                ratio.add_metric([blocks.codec], blocks.raw_bytes / blocks.memory_bytes)
            yield ratio
        yield from families(self._tiers())
        if devices := self._devices():
            yield from of_gpus(devices)
        if (backups := self._backups()) is not None:
            yield from _backed_up(backups)
        depth = GaugeMetricFamily("bul_queue_depth", "Tasks waiting.", labels=["priority"])
        for priority, waiting in sorted(self._queue_depth().items()):
            depth.add_metric([str(priority)], waiting)
        yield depth
        text = "Finished tasks whose rows are still to be written."
        yield GaugeMetricFamily("bul_unsaved_tasks", text, value=self._unsaved())

    def expose(self) -> tuple[bytes, str]:
        """The text Prometheus scrapes, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST


def _family(histogram: Histogram) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(histogram.name, histogram.text, labels=histogram.labels)
    for values, series in histogram.series():
        pairs, total = series.snapshot()
        buckets = [("+Inf" if bound == math.inf else str(bound), count) for bound, count in pairs]
        family.add_metric(values, buckets, total)
    return family


def _backed_up(backups: BackupsSnapshot) -> Iterator[Metric]:
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
